"""The console command `rljax`."""

import tyro

from rljax.commands.generate import Generate, generate
from rljax.commands.launch import connect_if_asked, exit_on_errors, print_result
from rljax.commands.reward import Reward, reward
from rljax.commands.rlhf import Rlhf, rlhf
from rljax.commands.score import Score, score
from rljax.numerics.precision import use_matmul_precision


def main() -> None:
    """Runs the command of the command line, with the exit status of `launch`."""
    app = tyro.extras.SubcommandApp()
    app.command(Score, name="score")  # type: ignore[call-overload]
    app.command(Generate, name="generate")  # type: ignore[call-overload]
    app.command(Reward, name="reward")  # type: ignore[call-overload]
    app.command(Rlhf, name="rlhf")  # type: ignore[call-overload]
    with exit_on_errors(
        disk="Make room, or make it writable; the same command goes on.",
        memory="Lower --max-tokens or --batch-size, or raise --num-microbatches; the same "
        "command goes on.",
    ):
        connect_if_asked()
        command = app.cli(
            prog="rljax", description="Reinforcement learning with JAX, as commands."
        )
        if (options := getattr(command, "run", None)) is not None:
            use_matmul_precision(options.matmul_precision)
        match command:
            case Score():
                result = score(command)
            case Generate():
                result = generate(command)
            case Reward():
                result = reward(command)
            case _:
                result = rlhf(command)
        print_result(result)


if __name__ == "__main__":
    main()
