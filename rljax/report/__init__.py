"""Learning curves, replays of episodes, HTML pages and tables of finished runs.

HTML, CSS and JavaScript lie in `web/`. Matplotlib and Pillow (`pip install 'rljax[viz]'`) are imported
when a picture is drawn. Imports every package but `interop` and `commands`.
"""

from rljax.report.gif import frame, save_gif
from rljax.report.plots import learning_curve
from rljax.report.policy_replay import play_policies, require_pictures, save_replay
from rljax.report.replay import Replay, save_html
from rljax.report.reward_page import WrongPair, save_reward_page
from rljax.report.rlhf_page import ShownCompletion, save_rlhf_page

__all__ = [
    "Replay",
    "ShownCompletion",
    "WrongPair",
    "frame",
    "learning_curve",
    "play_policies",
    "require_pictures",
    "save_gif",
    "save_html",
    "save_replay",
    "save_reward_page",
    "save_rlhf_page",
]
