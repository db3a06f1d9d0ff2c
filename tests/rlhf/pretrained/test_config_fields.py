"""Every field that transformers reads stands in our tables; run beside transformers."""

import ast
import importlib
import inspect
import textwrap

import pytest

from rljax.rlhf.pretrained.families import FAMILIES, known_fields
from rljax.rlhf.pretrained.positions import ROPE_KEYS

pytestmark = pytest.mark.peers

METHODS = {"get_text_config", "standardize_rope_params"}


def source_of(thing):
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def is_config(node):
    return ast.unparse(node) in ("config", "self.config", "config.get_text_config()")


def fields_read(tree):
    """Names in `config.NAME`, `self.config.NAME` and getattr's and hasattr's of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_config(node.value):
            yield node.attr
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "hasattr")
            and is_config(node.args[0])
            and isinstance(node.args[1], ast.Constant)
        ):
            yield node.args[1].value


def rope_keys_read(tree):
    """Names in `rope_parameters_dict["NAME"]` and `rope_parameters_dict.get("NAME")`."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=value, slice=ast.Constant(value=str(name))):
                pass
            case ast.Call(
                func=ast.Attribute(value=value, attr="get"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                pass
            case _:
                continue
        if ast.unparse(value).endswith(("rope_parameters", "rope_parameters_dict")):
            yield name


def modeling(family):
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}")


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_no_field_that_the_tables_lack(family):
    from transformers import masking_utils, modeling_layers

    module = modeling(family)
    read = {*fields_read(source_of(module))}
    assert len(read) > 12
    for part in (
        modeling_layers.GenericForSequenceClassification,
        masking_utils.create_causal_mask,
        masking_utils.create_sliding_window_causal_mask,
    ):
        read |= {*fields_read(source_of(part))}
    assert read - known_fields(family) - METHODS == set()


def test_transformers_reads_no_number_of_positions_that_we_do_not():
    from transformers import modeling_rope_utils as rope

    functions = [
        rope._compute_linear_scaling_rope_parameters,
        rope._compute_dynamic_ntk_parameters,
        rope._compute_yarn_parameters,
        rope._compute_llama3_parameters,
        rope.dynamic_rope_update,
    ]
    keys, fields = set(), set()
    for function in functions:
        keys |= {*rope_keys_read(source_of(function))}
        fields |= {*fields_read(source_of(function))}
    assert len(keys) > 8
    assert keys - {*ROPE_KEYS} == set()
    assert fields - known_fields("llama") - METHODS == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_configs_hold_no_field_that_the_tables_lack(family):
    from transformers import AutoConfig

    config = AutoConfig.for_model(family).to_dict()
    assert config.keys() - known_fields(family) == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_what_is_missing_as_we_do(family):
    """A file with the shape alone; what is left out is of the class."""
    from transformers import AutoConfig

    from rljax.rlhf.pretrained.config import read_config

    names = [f.theirs for f in FAMILIES[family].fields if f.absent is ...]
    whole = AutoConfig.for_model(family).to_dict()
    bare = {name: whole[name] for name in names} | {"model_type": family}
    assert read_config(bare, "") == read_config(whole, "")
