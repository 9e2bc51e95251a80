"""The drop-ins against PaddleOCR's own numbers, and `install` in a package built as PaddleOCR's."""

import importlib
import importlib.util
import json
import logging
import pickle
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import paddle
import programs
import pytest
from helpers import DATA, GOLDEN, GOLDEN_CASES, assert_value, golden_batch, tensors

import dbloss
from dbloss import paddleocr as drop_ins
from dbloss.base import checks
from dbloss.paddleocr import DBPostProcess, DetMetric, MakeBorderMap, MakeShrinkMap, install

TARGETS = json.loads((DATA / "paddleocr_targets.json").read_text())
TARGET_MAPS = np.load(DATA / "paddleocr_targets.npz")
# Both steps of PaddleOCR's release 3.7.0 one after the other, and the data that they leave.
STEPS = json.loads((DATA / "paddleocr_label_steps.json").read_text())
STEP_MAPS = np.load(DATA / "paddleocr_label_steps.npz")
BOXES = json.loads((DATA / "paddleocr_boxes.json").read_text())
if int(cv2.__version__.split(".")[0]) < 5:
    # With an older OpenCV PaddleOCR's own class simplifies one outline of this case otherwise.
    BOXES = [
        case for case in BOXES if (case["map"], case["kwargs"].get("box_type")) != ("map10", "poly")
    ]
BOX_MAPS = np.load(DATA / "paddleocr_boxes.npz")
SCORES = json.loads((DATA / "paddleocr_score.json").read_text())
MIGRATION = Path(__file__).parents[1] / "docs" / "migration.md"


def page(name):
    """The data of an image as PaddleOCR's steps hand it on: points in float32, flags of NumPy."""
    case = TARGETS[name]
    return {
        "image": np.zeros((case["height"], case["width"], 3), np.uint8),
        "polys": [np.array(polygon, np.float32) for polygon in case["polygons"]],
        "ignore_tags": np.array(case["ignored"], bool),
    }


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    """Some messages come once in a process: here once in a test."""
    monkeypatch.setattr(drop_ins, "_said", set())


def check_page(data, name, *maps, golden=TARGET_MAPS):
    for key in maps:
        expected = golden[f"{name}.{key}"]
        assert data[key].dtype == np.float32 and data[key].flags.c_contiguous
        np.testing.assert_allclose(data[key], expected, rtol=0, atol=1e-6, err_msg=key)


# Labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_labels(name):
    """Each step gives PaddleOCR's maps, and leaves its input alone."""
    data, before = page(name), page(name)
    for array in (*data["polys"], data["ignore_tags"]):
        array.flags.writeable = False
    kept = dict(data)
    settings = TARGETS[name]["kwargs"]
    for step in (MakeBorderMap(**settings), MakeShrinkMap(**settings)):
        assert step(data) is data
    check_page(data, name, "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
    # The shrink-map step hands on new arrays, and the old ones are as they were.
    assert data["image"] is kept["image"]
    np.testing.assert_equal(kept, before)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("kind", [list, np.array])
def test_both_steps_one_after_the_other(name, kind, caplog):
    """In either order, at an epoch of the sample, with a NaN: maps, polygons and tags."""
    case = STEPS[name]
    data = page(case["page"])
    if "nan" in case:
        i, j, k = case["nan"]
        data["polys"][i][j, k] = np.nan
    if len({len(polygon) for polygon in data["polys"]}) == 1:
        data["polys"] = kind(data["polys"])
    data["ignore_tags"] = kind(data["ignore_tags"])
    if "epoch" in case:
        data["epoch"] = case["epoch"]
    for step in case["order"]:
        step = {"border": MakeBorderMap, "shrink": MakeShrinkMap}[step]
        data = step(**case.get("settings", {}))(data)
    maps = "threshold_map", "threshold_mask", "shrink_map", "shrink_mask"
    check_page(data, name, *maps, golden=STEP_MAPS)
    for got, expected in zip(data["polys"], case["polys"], strict=True):
        if np.isfinite(
            got
        ).all():  # where one is NaN PaddleOCR clips the others, which nothing reads
            np.testing.assert_array_equal(got, expected)
    assert [bool(tag) for tag in data["ignore_tags"]] == case["ignore_tags"]
    assert type(data["ignore_tags"]) is type(kind([]))
    if kind is np.array:
        assert data["ignore_tags"].dtype == bool
    assert len(caplog.records) == ("nan" in case)


def test_the_epoch_of_the_sample_goes_before_that_of_the_constructor():
    for settings, epoch in (
        ({"epoch": 0}, 500),
        ({"epoch": "None"}, "500"),
        ({"epoch": 1024}, 500),
    ):
        data = {**page("ratio_06"), "epoch": epoch}
        MakeBorderMap(total_epoch=500, **settings)(data)
        MakeShrinkMap(total_epoch=500, **settings)(data)
        check_page(data, "ratio_06", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
    for epoch in (None, "None"):
        data = {**page("ratio_06"), "epoch": epoch}
        MakeShrinkMap(total_epoch=500, epoch=500)(data)
        check_page(data, "ratio_06", "shrink_map", "shrink_mask")
    with pytest.raises(ValueError, match="MakeShrinkMap: shrink_ratio is 1 at epoch 300 of 100"):
        MakeShrinkMap(total_epoch=100)({**page("ratio_06"), "epoch": 300})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**25])
def test_a_text_without_a_place_is_ignored_and_named_once(value, caplog):
    data, clean = page("many"), page("many")
    data["polys"][3][2, 1] = value
    data["img_path"], data["texts"] = "images/7.jpg", [f"word {i}" for i in range(12)]
    steps = MakeBorderMap(), MakeShrinkMap()
    for _ in range(2):
        done = dict(data)
        for step in steps:
            done = step(done)
    (record,) = caplog.records
    for part in ("Text 3, 'word 3', of images/7.jpg", "not finite", "dbloss.labels"):
        assert part in record.getMessage()
    assert [i for i, tag in enumerate(done["ignore_tags"]) if tag] == [3]
    del clean["polys"][3]
    clean["ignore_tags"] = clean["ignore_tags"][1:]
    for step in steps:
        clean = step(clean)
    for key in ("threshold_map", "threshold_mask", "shrink_map", "shrink_mask"):
        np.testing.assert_array_equal(done[key], clean[key])


@pytest.mark.parametrize(
    "settings",
    [
        {"epoch": 500, "total_epoch": 500},
        {"epoch": "40", "total_epoch": "40", "shrink_ratio": "0.4"},
        {"epoch": 100, "total_epoch": 200, "shrink_ratio": 0.5},
    ],
)
def test_the_shrink_ratio_grows_with_the_epoch(settings, caplog):
    data = page("ratio_06")
    MakeBorderMap(**settings)(data)
    MakeShrinkMap(**settings)(data)
    check_page(data, "ratio_06", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
    assert not caplog.records


@pytest.mark.parametrize(
    "settings",
    [
        {"epoch": "None", "total_epoch": 500},
        {"epoch": None, "total_epoch": 500},
        {"total_epoch": 500},
        {"epoch": 100},
        {"use_gpu": True, "epoch_num": 100, "character_dict_path": None},  # PaddleOCR's `Global`
    ],
)
def test_without_an_epoch_the_shrink_ratio_stays(settings, caplog):
    data = page("one_box")
    MakeBorderMap(**settings)(data)
    MakeShrinkMap(**settings)(data)
    check_page(data, "one_box", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
    assert not caplog.records


def test_text_weights():
    """Words of one height: the longer one weighs less, as (200 / pixels)^0.5, and the rest 1."""
    data = page("empty")
    data["polys"] = np.float32([[(8, 8), (x, 8), (x, 28), (8, 28)] for x in (48, 88)])
    data["polys"][1] += (0, 30)
    data["ignore_tags"] = [False, False]
    assert "text_weights" not in MakeShrinkMap()(dict(data))
    assert (MakeShrinkMap(text_balance=0)(dict(data))["text_weights"] == 1).all()
    with pytest.raises(ValueError, match=r"text_balance: expected .* at most 2, got 2\.5"):
        MakeShrinkMap(text_balance=2.5)
    data = MakeShrinkMap(text_balance="0.5")(data)
    text = data["shrink_map"] == 1
    for half in (np.s_[:30], np.s_[30:]):
        expected = (200 / text[half].sum()) ** 0.5
        np.testing.assert_allclose(data["text_weights"][half][text[half]], expected, 1e-6)
    assert (data["text_weights"][~text] == 1).all()


@pytest.mark.parametrize("step", [MakeBorderMap, MakeShrinkMap])
def test_a_shrink_ratio_that_grows_to_1_is_reported_and_fails_where_it_draws(step, caplog):
    built = step(epoch=1024, total_epoch=300)  # PaddleOCR's first loader has the seed as epoch
    (record,) = caplog.records
    assert record.name == "dbloss" and record.levelname == "WARNING"
    for part in (step.__name__, "1.08267", "1024 of 300", "Global.seed", "below 900"):
        assert part in record.getMessage()
    with pytest.raises(ValueError, match=r"shrink_ratio: .* below 1"):
        built(page("one_box"))


@pytest.mark.parametrize("step", [MakeBorderMap, MakeShrinkMap])
def test_a_wrong_setting_shows_where_the_step_is_built(step):
    for settings in ({"shrink_ratio": 1.2}, {"shrink_ratio": "wide"}, {"shrink_ratio": None}):
        with pytest.raises((TypeError, ValueError), match="shrink_ratio"):
            step(**settings)
    for name, value in (("epoch", "last"), ("total_epoch", 0)):
        with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
            step(**{"epoch": 1, "total_epoch": 2, name: value})
    name = {MakeBorderMap: "thresh_max", MakeShrinkMap: "min_text_size"}[step]
    with pytest.raises(ValueError, match=f"{name}: expected"):
        step(**{name: -1})


@pytest.mark.parametrize(
    ("built", "slip", "meant"),
    [
        (MakeBorderMap, "shrink_ration", "shrink_ratio"),
        (MakeShrinkMap, "text_balanc", "text_balance"),
        (MakeShrinkMap, "min_txt_size", "min_text_size"),
        (DBPostProcess, "box_tresh", "box_thresh"),
        (DBPostProcess, "unclip_ration", "unclip_ratio"),
        (DetMetric, "main_indicater", "main_indicator"),
    ],
)
def test_a_slip_in_a_keyword_is_named(built, slip, meant):
    """Wherever it stands: PaddleOCR adds `Global` behind a step's own keywords."""
    for kwargs in ({slip: 1}, {"use_gpu": True, slip: 1}):
        with pytest.raises(
            TypeError, match=f"{built.__name__} does not know '{slip}'. Did you mean '{meant}'?"
        ):
            built(**kwargs)


# `Global` of PaddleOCR's detection configurations, with what its programs add to it or read there.
GLOBAL = [
    "model_name",
    "debug",
    "use_gpu",
    "use_xpu",
    "use_mlu",
    "use_npu",
    "use_gcu",
    "epoch_num",
    "log_smooth_window",
    "print_batch_step",
    "save_model_dir",
    "save_epoch_step",
    "eval_batch_step",
    "eval_batch_epoch",
    "cal_metric_during_train",
    "calc_epoch_interval",
    "pretrained_model",
    "checkpoints",
    "save_inference_dir",
    "use_visualdl",
    "use_wandb",
    "infer_img",
    "save_res_path",
    "distributed",
    "d2s_train_image_shape",
    "to_static",
    "use_amp",
    "amp_level",
    "amp_dtype",
    "amp_custom_black_list",
    "amp_custom_white_list",
    "scale_loss",
    "use_dynamic_loss_scaling",
    "find_unused_parameters",
    "uniform_output_enabled",
    "use_sync_bn",
    "use_ema",
    "ema_decay",
    "ema_gamma",
    "ema_decay_type",
    "ema_filter_no_grad",
    "log_ranks",
    "print_mem_info",
    "seed",
    "character_dict_path",
    "max_text_length",
    "infer_mode",
    "use_space_char",
    "export_with_pir",
    "profiler_options",
]


@pytest.mark.parametrize("built", [MakeBorderMap, MakeShrinkMap, DBPostProcess])
def test_keywords_of_paddleocr_itself_pass_and_others_are_reported(built, caplog):
    built(**dict.fromkeys(GLOBAL))
    det = ["det_box_type", "det_db_box_thresh", "det_db_unclip_ratio", "det_max_candidates"]
    built(**dict.fromkeys(det))
    assert not caplog.records
    built(min_size=4, **dict.fromkeys(GLOBAL), later=1)
    (record,) = caplog.records
    assert f"{built.__name__} does not know 'min_size' and leaves it unused" in record.getMessage()


def test_texts_without_polygons_and_tags_that_are_numbers():
    data = page("ignored")
    data["ignore_tags"] = [int(tag) for tag in data["ignore_tags"]]
    check_page(MakeShrinkMap()(MakeBorderMap()(data)), "ignored", "threshold_map", "shrink_mask")
    data = {**page("empty"), "polys": np.zeros((0, 4, 2)), "ignore_tags": []}
    check_page(MakeShrinkMap()(MakeBorderMap()(data)), "empty", "threshold_map", "shrink_mask")


# Boxes ------------------------------------------------------------------------------------------


def box_map(name):
    return np.float32(BOX_MAPS[name]) / np.float32(255)


@pytest.mark.parametrize("as_tensor", [True, False], ids=["tensor", "array"])
def test_boxes(as_tensor):
    assert BOXES
    for case in BOXES:
        maps = box_map(case["map"])[None, None]
        shape = [(case["height"], case["width"], 1.0, 1.0)]
        settings = {"thresh": 0.3, "box_thresh": 0.7, "unclip_ratio": 2.0} | case["kwargs"]
        given = paddle.to_tensor(maps) if as_tensor else maps
        (found,) = DBPostProcess(**settings)({"maps": given}, shape)
        assert [np.asarray(box).tolist() for box in found["points"]] == case["boxes"]


def test_boxes_of_a_batch_are_those_of_each_map_at_its_own_size():
    quads = [case for case in BOXES if case["kwargs"] == BOXES[0]["kwargs"]][:3]
    assert len(quads) == 3
    # The approximate binary map and the threshold map are not read.
    maps = np.stack([np.stack([box_map(case["map"])] * 3) for case in quads])
    maps[:, 1:] = 1 - maps[:, 1:]
    shapes = [(case["height"], case["width"], 0.5, 0.5) for case in quads]
    found = DBPostProcess(**quads[0]["kwargs"])({"maps": paddle.to_tensor(maps)}, shapes)
    for got, case in zip(found, quads, strict=True):
        assert isinstance(got["points"], np.ndarray) and got["points"].dtype == np.int32
        assert got["points"].tolist() == case["boxes"]


def test_a_page_without_boxes():
    blank, shape = {"maps": np.zeros((1, 1, 32, 32), np.float32)}, [(32, 32, 1, 1)]
    (found,) = DBPostProcess()(blank, shape)
    assert found["points"].shape == (0,)
    assert DBPostProcess(box_type="poly")(blank, shape) == [{"points": []}]


def test_settings_of_the_boxes_are_read_at_the_call_and_checked_where_it_is_built():
    case = next(case for case in BOXES if case["boxes"])
    settings = {name: str(value) for name, value in case["kwargs"].items()}
    if not all(isinstance(value, float | int) for value in case["kwargs"].values()):
        settings = case["kwargs"]
    find = DBPostProcess(**settings, use_gpu=False, epoch_num=500)
    given = {"maps": box_map(case["map"])[None, None]}, [(case["height"], case["width"], 1, 1)]
    assert find(*given)[0]["points"].tolist() == case["boxes"]
    find.box_thresh = 1
    assert len(find(*given)[0]["points"]) == 0
    for name, value in {"thresh": 3, "box_thresh": "high", "score_mode": "slowly"}.items():
        with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
            DBPostProcess(**{name: value})


# Score ------------------------------------------------------------------------------------------


def batch(*cases):
    """What PaddleOCR's loader and post-processing give for some images."""
    preds = [{"points": case["found"]} for case in cases]
    truth, tags = [case["truth"] for case in cases], [case["ignored"] for case in cases]
    return preds, [None, None, truth, tags]


def rates(cases):
    """PaddleOCR's rates from its counts."""
    truth, found, hits = (
        sum(case[name] for case in cases) for name in ("gtCare", "detCare", "detMatched")
    )
    recall, precision = hits / truth if truth else 0, hits / found if found else 0
    total = precision + recall
    hmean = 2 * precision * recall / total if total else 0
    return {"precision": precision, "recall": recall, "hmean": hmean}


def test_score_of_a_set_in_batches():
    metric = DetMetric()
    assert metric.main_indicator == "hmean"
    for start in range(0, len(SCORES), 7):
        assert metric(*batch(*SCORES[start : start + 7]), mode="eval") is None
    assert metric.get_metric() == pytest.approx(rates(SCORES), rel=1e-12)
    assert metric.get_metric() == rates([])  # it has begun anew


def test_score_of_each_image():
    metric = DetMetric(main_indicator="recall")
    assert metric.main_indicator == "recall"
    for case in SCORES:
        metric(*batch(case))
        assert metric.get_metric() == pytest.approx(rates([case]), rel=1e-12), case["name"]


def test_score_of_arrays_and_after_a_reset():
    case = next(case for case in SCORES if case["found"] and case["detMatched"])
    metric = DetMetric()
    metric(*batch(SCORES[0]))
    metric.reset()
    preds, (*head, truth, tags) = batch(case)
    found = [{"points": np.array(preds[0]["points"], np.int32)}]
    metric(found, [*head, np.array(truth, np.float32), np.array(tags, np.int64)])
    assert metric.get_metric() == pytest.approx(rates([case]), rel=1e-12)


# In a process of its own ------------------------------------------------------------------------


@pytest.mark.parametrize("built", [MakeBorderMap(0.5), MakeShrinkMap(6), DBPostProcess(0.2)])
def test_what_is_built_can_be_pickled(built):
    """As a data loader does where the system does not fork."""
    again = pickle.loads(pickle.dumps(built))
    assert type(again) is type(built) and vars(again) == vars(built)


# Install ----------------------------------------------------------------------------------------

# A package with PaddleOCR's modules, its names and what matters of their structure: which module
# imports which class, what derives from what, and how a class is looked up.
FAKE = {
    "ppocr/__init__.py": "",
    "ppocr/losses/__init__.py": """
        from .det_db_loss import DBLoss
        from .combined_loss import CombinedLoss

        def build_loss(config):
            config = dict(config)
            return eval(config.pop("name"))(**config)
        """,
    "ppocr/losses/det_db_loss.py": """
        from paddle import nn

        class DBLoss(nn.Layer):
            def __init__(self, alpha=5, **kwargs):
                super(DBLoss, self).__init__()
                self.alpha = alpha

            def forward(self, predicts, labels):
                raise RuntimeError("PaddleOCR's own")
        """,
    "ppocr/losses/distillation_loss.py": """
        from paddle import nn
        from .det_db_loss import DBLoss

        class DistillationDBLoss(DBLoss):
            def __init__(self, model_name_list=[], alpha=5, name="db", **kwargs):
                super().__init__()
                self.model_name_list = model_name_list
                self.name = name
                self.key = None

            def forward(self, predicts, batch):
                losses = {}
                for model in self.model_name_list:
                    for key, loss in super().forward(predicts[model], batch).items():
                        if key != "loss":
                            losses[f"{self.name}_{model}_{key}"] = loss
                losses["loss"] = sum(losses.values())
                return losses

        class DistillationDilaDBLoss(DBLoss):
            def __init__(self, model_name_pairs=[], key=None, name="dila_dbloss"):
                super().__init__()
                self.model_name_pairs, self.key, self.name = model_name_pairs, key, name

            def forward(self, predicts, batch):
                student, teacher = (predicts[name][self.key] for name in self.model_name_pairs)
                text = (teacher[:, 0] > 0.3).astype("float32")
                threshold_map, threshold_mask, shrink_map, mask = batch[1:]
                loss = self.alpha * self.bce_loss(student[:, 0], text, mask)
                return {"loss": loss + self.dice_loss(student[:, 2], text, mask)}

        class DistillationDistanceLoss(nn.Layer):
            pass
        """,
    "ppocr/losses/combined_loss.py": """
        from paddle import nn
        from .distillation_loss import DistillationDBLoss, DistillationDilaDBLoss

        class CombinedLoss(nn.Layer):
            def __init__(self, loss_config_list):
                super().__init__()
                self.loss_func = [
                    eval(name)(**settings)
                    for config in loss_config_list
                    for name, settings in config.items()
                ]
        """,
    "ppocr/data/__init__.py": "from ppocr.data.imaug import create_operators",
    "ppocr/data/imaug/__init__.py": """
        from .make_border_map import MakeBorderMap
        from .make_shrink_map import MakeShrinkMap
        from .operators import KeepKeys

        def create_operators(params, global_config=None):
            ops = []
            for operator in params:
                (name,) = operator
                ops.append(eval(name)(**{**(operator[name] or {}), **(global_config or {})}))
            return ops
        """,
    "ppocr/data/imaug/make_border_map.py": "class MakeBorderMap(object): pass",
    "ppocr/data/imaug/make_shrink_map.py": "class MakeShrinkMap(object): pass",
    "ppocr/data/imaug/operators.py": """
        class KeepKeys(object):
            def __init__(self, keep_keys, **kwargs):
                self.keep_keys = keep_keys

            def __call__(self, data):
                return [data[key] for key in self.keep_keys]
        """,
    "ppocr/postprocess/__init__.py": """
        from .db_postprocess import DBPostProcess, DistillationDBPostProcess

        def build_post_process(config, global_config=None):
            config = {**config, **(global_config or {})}
            return eval(config.pop("name"))(**config)
        """,
    "ppocr/postprocess/db_postprocess.py": """
        class DBPostProcess(object): pass

        class DistillationDBPostProcess(object):
            def __init__(self, model_name=["student"], key=None, thresh=0.3, box_thresh=0.6,
                         max_candidates=1000, unclip_ratio=1.5, use_dilation=False,
                         score_mode="fast", box_type="quad", **kwargs):
                self.model_name = model_name
                self.post_process = DBPostProcess(
                    thresh=thresh, box_thresh=box_thresh, max_candidates=max_candidates,
                    unclip_ratio=unclip_ratio, use_dilation=use_dilation,
                    score_mode=score_mode, box_type=box_type)

            def __call__(self, predicts, shape_list):
                return {k: self.post_process(predicts[k], shape_list=shape_list)
                        for k in self.model_name}
        """,
    "ppocr/metrics/__init__.py": """
        from .det_metric import DetMetric
        from .distillation_metric import DistillationMetric

        def build_metric(config):
            config = dict(config)
            return eval(config.pop("name"))(**config)
        """,
    "ppocr/metrics/det_metric.py": "class DetMetric(object): pass",
    "ppocr/metrics/distillation_metric.py": """
        import importlib
        from .det_metric import DetMetric

        class DistillationMetric(object):
            def __init__(self, key=None, base_metric_name=None, main_indicator=None, **kwargs):
                self.key, self.base, self.kwargs = key, base_metric_name, kwargs
                self.main_indicator, self.metrics = main_indicator, None

            def __call__(self, preds, batch, **kwargs):
                module = importlib.import_module(__name__)
                if self.metrics is None:
                    self.metrics = {key: getattr(module, self.base)(
                        main_indicator=self.main_indicator, **self.kwargs) for key in preds}
                    for key in preds:
                        self.metrics[key].reset()
                for key in preds:
                    self.metrics[key].__call__(preds[key], batch, **kwargs)

            def get_metric(self):
                return self.metrics[self.key].get_metric()
        """,
    "mine.py": """
        from ppocr.losses.det_db_loss import DBLoss as Loss
        from ppocr.metrics import DetMetric
        """,
    "late.py": """
        from ppocr.losses import DBLoss
        from ppocr.data.imaug import *

        class OwnLoss(DBLoss): pass
        """,
}


def write(folder, files=FAKE):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of the fake package on `sys.path`, and nothing of it left behind."""
    write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for logger in (logging.getLogger("ppocr"), checks.LOGGER):
        for name in ("handlers", "filters"):
            monkeypatch.setattr(logger, name, [])
    monkeypatch.setattr(logging.getLogger("ppocr"), "propagate", True)
    yield tmp_path
    for handler in logging.getLogger("ppocr").handlers:
        handler.close()
    for name in list(sys.modules):
        if name.split(".")[0] in ("ppocr", "mine", "late"):
            del sys.modules[name]


def said(caplog):
    assert all((r.name, r.levelname) == ("dbloss", "WARNING") for r in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_install_replaces_every_name_and_says_so_in_a_line(checkout, caplog):
    import mine
    import ppocr.losses

    mine.SameLoss = ppocr.losses.DBLoss  # two names in a module
    install()
    assert said(caplog) == [
        f"dbloss {dbloss.__version__} takes the place of PaddleOCR's DBLoss, MakeBorderMap,"
        " MakeShrinkMap, DBPostProcess and DetMetric."
    ]
    assert mine.Loss is mine.SameLoss is dbloss.DBLoss and mine.DetMetric is DetMetric


def test_a_second_call_changes_nothing(checkout, caplog):
    install(labels=False, boxes=False, score=False)
    from ppocr.losses import distillation_loss

    distilled = distillation_loss.DistillationDBLoss
    caplog.clear()
    install(labels=False, boxes=False, score=False)
    assert not caplog.records
    assert distillation_loss.DistillationDBLoss is distilled
    install()
    assert said(caplog) == [
        f"dbloss {dbloss.__version__} takes the place of PaddleOCR's MakeBorderMap, MakeShrinkMap,"
        " DBPostProcess and DetMetric."
    ]


def test_what_was_built_before_keeps_its_class(checkout, caplog):
    from ppocr.losses import build_loss, combined_loss, distillation_loss

    settings = {"DistillationDBLoss": {"model_name_list": ["Student"]}}
    config = {"name": "CombinedLoss", "loss_config_list": [settings]}
    before = distillation_loss.DistillationDBLoss
    (built,) = build_loss(config).loss_func

    class Own(before):
        """With what ties a method to its class: `super`, plain and in a wrapper."""

        @classmethod
        def make(cls):
            return super().__new__(cls)

        @paddle.no_grad()
        def forward(self, predicts, batch, *, more=True):
            assert more
            return super().forward(predicts, batch)

    distillation_loss.Own = Own
    install()
    caplog.clear()
    assert type(built) is before
    maps = paddle.rand([1, 3, 4, 4])
    with pytest.raises(RuntimeError, match="PaddleOCR's own"):
        built({"Student": {"maps": maps}}, [None] * 5)

    after = distillation_loss.DistillationDBLoss
    assert after is combined_loss.DistillationDBLoss is not before
    assert (after.__module__, after.__qualname__) == (before.__module__, before.__qualname__)
    assert issubclass(distillation_loss.Own, after) and distillation_loss.Own is not Own
    assert isinstance(distillation_loss.Own.make(), dbloss.DBLoss)
    labels = [None, *(paddle.ones([1, 4, 4]) for _ in range(4))]
    new = distillation_loss.Own(["Student"])
    assert float(new({"Student": {"maps": maps}}, labels)["loss"]) > 0


def test_the_note_on_distillation_comes_where_such_a_loss_is_built(checkout, caplog):
    from ppocr.losses import build_loss, distillation_loss

    install()
    build_loss({"name": "DBLoss"})
    assert "distillation" not in " ".join(said(caplog))
    caplog.clear()
    distillation_loss.DistillationDBLoss()
    distillation_loss.DistillationDilaDBLoss()
    assert said(caplog) == [
        "PaddleOCR's distillation losses build DBLoss without arguments: balance_loss,"
        " main_loss_type, alpha, beta, ohem_ratio and eps of their configuration have no effect,"
        " with dbloss or without."
    ]


def open_log(folder):
    """Open PaddleOCR's log as its `get_logger` does; return what reads it."""
    theirs = logging.getLogger("ppocr")
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "log")):
        handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
        theirs.addHandler(handler)
    theirs.propagate = False
    return lambda: (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("opened", ["before", "after"])
def test_what_is_said_stands_in_the_log_of_paddleocr(opened, checkout, capsys):
    if opened == "before":
        read = open_log(checkout)
    install(labels=False, boxes=False, score=False)
    if opened == "after":
        read = open_log(checkout)
        logging.getLogger("ppocr").warning("the configuration")
    maps = paddle.full([1, 3, 4, 4], 2.0)  # no probability
    dbloss.DBLoss()({"maps": maps}, [None, *(paddle.ones([1, 4, 4]) for _ in range(4))])
    lines = read()
    replaced = f"dbloss WARNING: dbloss {dbloss.__version__} takes the place of PaddleOCR's DBLoss."
    assert lines[0] == replaced and lines.count(replaced) == 1
    assert opened == "before" or lines[1] == "ppocr WARNING: the configuration"
    assert sum("DBLoss checked a first batch" in line for line in lines) == 1
    # The console has it once, by the way it had it before.
    assert "takes the place" not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["loss", "labels", "boxes", "score"])
def test_each_option_replaces_its_own(checkout, option):
    install(**dict.fromkeys({"loss", "labels", "boxes", "score"} - {option}, False))
    import ppocr.data.imaug
    import ppocr.losses
    import ppocr.metrics
    import ppocr.postprocess

    replaced = {
        "loss": ppocr.losses.DBLoss is dbloss.DBLoss,
        "labels": ppocr.data.imaug.MakeBorderMap is MakeBorderMap,
        "boxes": ppocr.postprocess.DBPostProcess is DBPostProcess,
        "score": ppocr.metrics.DetMetric is DetMetric,
    }
    assert [name for name, yes in replaced.items() if yes] == [option]
    assert (ppocr.data.imaug.MakeShrinkMap is MakeShrinkMap) == (option == "labels")


def test_the_loss_that_a_configuration_builds(checkout):
    from ppocr.losses import build_loss

    install()
    loss = build_loss({"name": "DBLoss", "main_loss_type": "BCELoss", "alpha": 3})
    assert type(loss) is dbloss.DBLoss and loss.alpha == 3


def test_the_distillation_losses_compute_with_it(checkout):
    from ppocr.losses import build_loss, distillation_loss

    install()
    case = GOLDEN_CASES["default"]
    predicts, labels, _ = golden_batch(case)
    maps, labels = paddle.to_tensor(predicts["maps"]), tensors(labels)
    config = [
        {"DistillationDBLoss": {"model_name_list": ["Student", "Student2"], "alpha": 7}},
        {"DistillationDilaDBLoss": {"model_name_pairs": ["Student", "Teacher"], "key": "maps"}},
    ]
    combined = build_loss({"name": "CombinedLoss", "loss_config_list": config})
    db, dila = combined.loss_func
    assert isinstance(db, dbloss.DBLoss) and isinstance(db, distillation_loss.DistillationDBLoss)
    assert not issubclass(distillation_loss.DistillationDistanceLoss, dbloss.DBLoss)

    outputs = {name: {"maps": maps} for name in ("Student", "Student2", "Teacher")}
    losses = db(outputs, labels)
    expected = {
        f"db_{model}_{name}": value
        for model in ("Student", "Student2")
        for name, value in case.outputs.items()
        if name != "loss"
    }
    expected["loss"] = 2 * case.outputs["loss"]
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert_value(float(losses[name]), value, GOLDEN)

    text, mask = (maps[:, 0] > 0.3).astype("float32"), labels[4]
    alone = 5 * dbloss.BalanceLoss()(maps[:, 0], text, mask) + dbloss.DiceLoss()(
        maps[:, 2], text, mask
    )
    assert float(dila(outputs, labels)["loss"]) == pytest.approx(float(alone), rel=1e-6)


def test_the_steps_that_a_configuration_builds(checkout):
    from ppocr.data import create_operators

    install()
    steps = [{"MakeBorderMap": {"thresh_min": 0.3, "total_epoch": 500}}, {"MakeShrinkMap": None}]
    data = page("many")
    for step in create_operators(steps, {"use_gpu": False, "epoch_num": 500}):
        data = step(data)
    check_page(data, "many", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")


def test_weights_that_are_made_are_kept_and_those_kept_are_made(checkout):
    import ppocr.data
    from ppocr.data.imaug import operators

    install()

    def build(balance, *keys):
        shrink = {} if balance is None else {"text_balance": balance}
        kept = ["image", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask", *keys]
        steps = [{"MakeBorderMap": None}, {"MakeShrinkMap": shrink}]
        return ppocr.data.create_operators([*steps, {"KeepKeys": {"keep_keys": kept}}], {"seed": 1})

    for balance, *keys in ((None,), (0,), (0, "text_weights"), (0.5, "text_weights")):
        data = page("many")
        for step in build(balance, *keys):
            data = step(data)
        assert len(data) == 5 + len(keys)
        if keys:
            assert (data[5] == 1).all() == (balance == 0)
    with pytest.raises(ValueError, match="KeepKeys: expected text_weights among its keep_keys"):
        build(0.5)
    with pytest.raises(ValueError, match=r"MakeShrinkMap: expected a text_balance.*got none"):
        build(None, "text_weights")
    assert ppocr.data.create_operators([{"KeepKeys": {"keep_keys": ["text_weights"]}}])
    assert operators.KeepKeys.__module__ == "ppocr.data.imaug.operators"


def test_distillation_with_weights_of_text(checkout):
    """They weigh in the loss of the labels; the one of the teacher's maps is without."""
    from ppocr.losses import distillation_loss

    install()
    predicts, labels, _ = golden_batch(GOLDEN_CASES["default"])
    maps, labels = paddle.to_tensor(predicts["maps"]), tensors(labels)
    outputs = {name: {"maps": maps} for name in ("Student", "Teacher")}
    weights = paddle.where(labels[3] > 0, 3.0, 1.0)
    db = distillation_loss.DistillationDBLoss(["Student"])
    dila = distillation_loss.DistillationDilaDBLoss(["Student", "Teacher"], "maps")
    alone = dbloss.DBLoss()(outputs["Student"], [*labels, weights])
    got = db(outputs, [*labels, weights])
    assert float(got["db_Student_loss_shrink_maps"]) == float(alone["loss_shrink_maps"])
    assert float(got["loss"]) != float(db(outputs, labels)["loss"])
    assert float(dila(outputs, [*labels, weights])["loss"]) == float(dila(outputs, labels)["loss"])


def test_boxes_and_score_of_a_distillation(checkout):
    from ppocr.metrics import build_metric
    from ppocr.postprocess import build_post_process

    install()
    case = BOXES[0]
    assert case["kwargs"] == {"thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5}
    names = ["Student", "Teacher"]
    config = {"name": "DistillationDBPostProcess", "model_name": names, "key": "head_out"}
    maps = {"maps": box_map(case["map"])[None, None]}
    found = build_post_process(config, {"use_gpu": False})(
        dict.fromkeys(names, maps), [(case["height"], case["width"], 1, 1)]
    )
    for name in names:
        assert found[name][0]["points"].tolist() == case["boxes"]

    config = {"name": "DistillationMetric", "base_metric_name": "DetMetric", "key": "Student"}
    metric = build_metric({**config, "main_indicator": "hmean"})
    tags = np.zeros((1, len(case["boxes"])), bool)
    metric(found, [None, None, [case["boxes"]], tags])
    assert metric.get_metric() == {"precision": 1, "recall": 1, "hmean": 1}


def test_what_is_imported_later_has_it_too(checkout):
    install()
    import late

    assert late.DBLoss is dbloss.DBLoss and issubclass(late.OwnLoss, dbloss.DBLoss)
    assert late.MakeBorderMap is MakeBorderMap


def test_what_is_not_found_stays_and_is_named(checkout, caplog):
    """As with the package `paddleocr` of 2.x, which has no losses, or a library that is missing."""
    for file in (checkout / "ppocr" / "losses").iterdir():
        file.unlink()
    (checkout / "ppocr" / "losses").rmdir()
    (checkout / "ppocr" / "data" / "imaug" / "make_border_map.py").write_text("import lmdb_of_old")
    (checkout / "ppocr" / "metrics" / "det_metric.py").write_text("class DetMetricOfOld: pass")
    (checkout / "ppocr" / "metrics" / "__init__.py").write_text("")
    install()
    assert said(caplog) == [
        "PaddleOCR's DBLoss stays: ppocr.losses.det_db_loss was not found: ModuleNotFoundError: No"
        " module named 'ppocr.losses'.",
        "PaddleOCR's MakeBorderMap stays: ppocr.data.imaug.make_border_map was found and could not"
        " be imported: ModuleNotFoundError: No module named 'lmdb_of_old'.",
        "PaddleOCR's MakeShrinkMap stays: ppocr.data.imaug.make_shrink_map was found and could not"
        " be imported: ModuleNotFoundError: No module named 'lmdb_of_old'.",
        "PaddleOCR's DetMetric stays: it was not found in ppocr.metrics.det_metric.",
        f"dbloss {dbloss.__version__} takes the place of PaddleOCR's DBPostProcess.",
    ]


def test_without_ppocr_an_error_says_where_to_call_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ppocr", None)
    with pytest.raises(ImportError, match=r"(?s)ppocr.*tools/train.py.*import build_loss"):
        install()


def test_an_option_that_is_no_flag(checkout):
    with pytest.raises(TypeError, match="labels: expected True or False"):
        install(labels="no")


def test_the_line_in_the_documents_works_where_they_say(tmp_path):
    """A script with the head of PaddleOCR's `tools/train.py`, started as it is."""
    line = "import dbloss.paddleocr; dbloss.paddleocr.install()"
    assert line in MIGRATION.read_text("utf-8") and line in install.__doc__
    head = f"""
        from __future__ import absolute_import

        import os
        import sys

        __dir__ = os.path.dirname(os.path.abspath(__file__))
        sys.path.append(__dir__)
        sys.path.insert(0, os.path.abspath(os.path.join(__dir__, "..")))

        import numpy as np
        import numpy.random  # after Paddle 2.6 it crashes here and there: both hold a zlib
        import paddle
        from ppocr.data import create_operators
        from ppocr.losses import build_loss
        {line}
        from ppocr.postprocess import build_post_process
        from ppocr.metrics import build_metric

        steps = create_operators([{{"MakeBorderMap": None}}, {{"MakeShrinkMap": None}}])
        print(*(type(built).__module__ for built in (
            build_loss({{"name": "DBLoss"}}),
            *steps,
            build_post_process({{"name": "DBPostProcess"}}),
            build_metric({{"name": "DetMetric"}}),
        )))

        class Pages(paddle.io.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                text = np.float32([(34, 38), (94, 38), (94, 58), (34, 58)]) + index
                data = {{"image": np.zeros((96, 128, 3), np.uint8), "polys": text[None],
                        "ignore_tags": np.array([index == 3])}}
                for step in steps:
                    data = step(data)
                return [data[key] for key in ("threshold_map", "shrink_map", "shrink_mask")]

        for batch in paddle.io.DataLoader(Pages(), batch_size=4, num_workers=2):
            expected = [np.stack(maps) for maps in zip(*(Pages()[i] for i in range(4)))]
            assert all(map(np.array_equal, (x.numpy() for x in batch), expected))
            print(*expected[1].sum((1, 2)))
        """
    write(tmp_path, {**FAKE, "tools/train.py": head})
    done = programs.run("-W", "ignore", tmp_path / "tools" / "train.py")
    assert done.returncode == 0, done.stderr
    built, text = done.stdout.splitlines()[-2:]
    assert built.split() == ["dbloss.losses.db", *["dbloss.paddleocr"] * 4]
    # 60 x 20 pixels moved by 6.3, on whole pixels: 49 x 9 of them; the last text is ignored.
    assert text.split() == ["441.0", "441.0", "441.0", "0.0"]
    # Nobody has configured logging, and still it shows.
    assert "takes the place of PaddleOCR's DBLoss, MakeBorderMap" in done.stderr


# The command ------------------------------------------------------------------------------------

# As PaddleOCR's programs begin, with a process that is spawned as a data loader's on other systems.
PROGRAM = """
    import multiprocessing
    import os
    import sys

    start = __name__, __file__, sys.argv, sys.path[:]
    __dir__ = os.path.dirname(os.path.abspath(__file__))
    sys.path.append(__dir__)
    sys.path.insert(0, os.path.abspath(os.path.join(__dir__, "..")))

    from ppocr.losses import build_loss

    def describe(queue):
        queue.put((start, type(build_loss({"name": "DBLoss"})).__module__))

    def fail():
        raise ValueError("as the program meant it")

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        child = context.Process(target=describe, args=(queue,))
        child.start()
        print(queue.get(), flush=True)
        child.join()
        describe(queue)
        print(queue.get(), flush=True)
        if "exit" in sys.argv:
            sys.exit(3)
        fail()
    """


def test_the_command_runs_a_program_as_python_does(tmp_path):
    write(tmp_path, {**FAKE, "tools/train.py": PROGRAM})
    words = "tools/train.py", "-c", "some file.yml", "-o", "Global.seed=1"
    plain = programs.run("-W", "ignore", *words, cwd=tmp_path)
    ours = programs.run("-W", "ignore", "-m", "dbloss.paddleocr", *words, cwd=tmp_path)
    assert plain.returncode == ours.returncode == 1
    theirs = "'ppocr.losses.det_db_loss')"
    assert plain.stdout.count(theirs) == 2 and "__mp_main__" in plain.stdout
    assert ours.stdout == plain.stdout.replace(theirs, "'dbloss.losses.db')")
    said = [line for line in ours.stderr.splitlines() if "takes the place of PaddleOCR" not in line]
    assert said == plain.stderr.splitlines() and "in fail" in plain.stderr
    # Once in each of the two processes.
    assert ours.stderr.count("takes the place of PaddleOCR's DBLoss, MakeBorderMap") == 2


def test_the_command_hands_on_the_status(tmp_path):
    write(tmp_path, {**FAKE, "deploy/slim/prune.py": "import sys; sys.exit(sys.argv[1:] == [])"})
    done = programs.run("-m", "dbloss.paddleocr", tmp_path / "deploy" / "slim" / "prune.py")
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(
    ("words", "status", "words_shown"),
    [
        (["--help"], None, "usage: python -m dbloss.paddleocr PROGRAM"),
        ([], 2, "usage: python -m dbloss.paddleocr PROGRAM"),
        (["-c", "x.yml"], 2, "usage: python -m dbloss.paddleocr PROGRAM"),
        (["tools/trian.py"], 2, "can't open file"),
    ],
)
def test_what_the_command_cannot_run(words, status, words_shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["paddleocr.py", *words])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv(drop_ins._PROGRAM, "")
    if status is None:
        drop_ins._run({"__name__": "__main__"})
    else:
        with pytest.raises(SystemExit) as ended:
            drop_ins._run({"__name__": "__main__"})
        assert ended.value.code == status
    assert words_shown in "".join(capsys.readouterr())


def test_the_command_without_a_checkout_says_so(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("")
    monkeypatch.setattr(sys, "argv", ["paddleocr.py", str(tmp_path / "train.py")])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv(drop_ins._PROGRAM, "")
    monkeypatch.setitem(sys.modules, "ppocr", None)
    with pytest.raises(
        SystemExit, match=r"(?s)expected PaddleOCR's package ppocr.*No folder above"
    ):
        drop_ins._run({"__name__": "__main__"})


# PaddleOCR itself -------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("ppocr") is None, reason="needs PaddleOCR's ppocr")
def test_labels_and_boxes_of_paddleocr_itself():
    """In a process of its own, which keeps to itself what PaddleOCR's modules set for all."""
    code = """
        import copy
        from importlib import util
        from pathlib import Path
        import numpy as np
        from dbloss import paddleocr as ours

        def module(name):  # alone: the package imports much that need not be installed
            file = Path(util.find_spec("ppocr").origin).parent / name
            spec = util.spec_from_file_location(file.stem, file)
            loaded = util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
            return loaded

        border = module("data/imaug/make_border_map.py").MakeBorderMap
        shrunk = module("data/imaug/make_shrink_map.py").MakeShrinkMap
        process = module("postprocess/db_postprocess.py").DBPostProcess
        rng, compared = np.random.default_rng(0), 0
        for _ in range(20):
            at, size = rng.uniform(-10, 280, (8, 1, 2)), rng.uniform(15, 120, (8, 1, 2))
            polys = at + size * [(0, 0), (1, 0), (1, 1), (0, 1)] + rng.uniform(-2, 2, (8, 4, 2))
            data = {
                "image": np.zeros((320, 320, 3), np.uint8),
                "polys": polys.astype(np.float32),
                "ignore_tags": rng.random(8) < 0.2,
            }
            # Before June 2026 it reads the epoch of the constructor, and since then the sample's.
            epoch = data["epoch"] = int(rng.integers(501))
            settings = {"epoch": epoch, "total_epoch": 500}
            theirs, mine = copy.deepcopy(data), copy.deepcopy(data)
            for step in (border, shrunk)[:: rng.choice([1, -1])]:
                step(**settings)(theirs)
                getattr(ours, step.__name__)(**settings)(mine)
            np.testing.assert_array_equal(mine["polys"], theirs["polys"])
            np.testing.assert_array_equal(mine["ignore_tags"], theirs["ignore_tags"])
            for key in ("threshold_map", "threshold_mask", "shrink_map", "shrink_mask"):
                np.testing.assert_allclose(mine[key], theirs[key], rtol=0, atol=2e-6)
            maps = {"maps": theirs["threshold_map"][None, None]}
            # As PaddleOCR's loader has it, in float64: scaled so, a box can be a pixel off.
            shape = np.array([[641.0, 500.0, 0.5, 0.64]])
            for box_type in ("quad", "poly"):
                settings = {"thresh": 0.5, "box_thresh": 0.3, "box_type": box_type}
                (a,), (b,) = (
                    each(**settings)(maps, shape) for each in (process, ours.DBPostProcess)
                )
                kinds = [(type(e["points"]), getattr(e["points"], "shape", 0)) for e in (a, b)]
                assert kinds[0] == kinds[1]
                a, b = ([np.array(box).tolist() for box in each["points"]] for each in (a, b))
                assert a == b
                compared += len(a)
        assert compared > 50
        """
    done = programs.run("-W", "ignore", "-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
