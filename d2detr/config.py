"""Every config key of DETR, and the reading of a config."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.config import CfgNode as CN

from d2detr.errors import UserError

logger = logging.getLogger(__name__)


def add_detr_config(cfg: CN) -> None:
    """Add DETR's keys to a Detectron2 config.

    No default of Detectron2 is changed, so other models can be built from the same ``cfg``. The
    recipe of the original DETR is in ``configs/Base-DETR.yaml``.

    Args:
        cfg: the config to extend, in place.
    """
    # The mapper that yields training data: "detr" (original augmentation, see INPUT below) or
    # "default" (Detectron2's DatasetMapper).
    cfg.INPUT.DATASET_MAPPER_NAME = "detr"
    # Resize training images with torch: a quarter of the time of Pillow, from which one value in a
    # thousand differs by a grey level, rarely two. Inference always uses Pillow.
    cfg.INPUT.FAST_RESIZE = True
    # With INPUT.CROP.ENABLED, the share of images in [0, 1] that are resized to a short side from
    # RESIZE_SIZES (pixels) and cropped before the usual resize.
    cfg.INPUT.CROP.PROBABILITY = 0.5
    cfg.INPUT.CROP.RESIZE_SIZES = (400, 500, 600)
    # Large-scale jitter in place of crop and resize: the (smallest, largest) factor, such as
    # (0.1, 2.0), of an image that fits a square of the largest MIN_SIZE_TRAIN, to which it is then
    # cropped.
    cfg.INPUT.SCALE_JITTER = ()

    # What is checked of the datasets before the first iteration: "full", or "annotations" without
    # image files, for file systems on which opening all of them takes long, or "off".
    cfg.DATASETS.PREFLIGHT = "full"

    # "ADAMW" or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Learning rate of the backbone, relative to SOLVER.BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Further multipliers of BASE_LR, as pairs (part of a parameter's name, multiplier): of several
    # that fit a name, the first one counts, also for the backbone.
    cfg.SOLVER.LR_MULTIPLIERS = ()
    # Precision of mixed-precision training (SOLVER.AMP.ENABLED): "float16" or "bfloat16"; "" is
    # float16 on a GPU and bfloat16, which is the fast one, on a CPU.
    cfg.SOLVER.AMP.DTYPE = ""
    # Keep an exponential moving average of the weights, of which every step keeps this share, and
    # evaluate, save and predict with it; 0 keeps none. 0.999 is an average over 1,000 iterations.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Work off each batch of IMS_PER_BATCH in this many parts, one after the other, to save memory.
    # Losses, clipping and schedule are those of the whole batch; class_error and cardinality_error
    # are logged of the last part. A batch of fewer images has as many parts as images.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # With several processes each divides its classification loss by the class weights of its own
    # images, as the original does; boxes and masks are divided by the objects of all. True divides
    # the classification like them: losses and gradients are those of one process with all images.
    cfg.SOLVER.EXACT_GLOBAL_BATCH = False

    # Services that get the metrics of trainings, besides metrics.json and TensorBoard: "wandb"
    # (pip install 'd2detr[wandb]') and "mlflow" (pip install 'd2detr[mlflow]'). Their environment
    # variables, such as WANDB_MODE and MLFLOW_TRACKING_URI, say where they write.
    cfg.TRACKERS = ()

    # Images that each process evaluates at a time. Padding changes detections a little, see
    # docs/padding.md.
    cfg.TEST.IMS_PER_BATCH = 1
    # Iterations from one computation of the losses on DATASETS.TEST to the next; 0 computes none.
    # They are logged as DATASET/total_loss, DATASET/class_error and so on, in batches of the size
    # that a process trains with.
    cfg.TEST.LOSS_PERIOD = 0
    # The metric whose highest value decides which model is the best, kept in model_best.pth: as it
    # is logged for one dataset, such as "bbox/AP", "segm/AP" or "panoptic_seg/PQ". With several
    # datasets it is that of the first. "" keeps no best model.
    cfg.TEST.BEST_METRIC = "bbox/AP"
    # Evaluations in a row without a better BEST_METRIC after which training ends; 0 never ends it.
    cfg.TEST.PATIENCE = 0
    # Write OUTPUT_DIR/report.html, what there is to see of the run, at the end of a training or an
    # evaluation. It needs pip install 'd2detr[report]'.
    cfg.TEST.REPORT = True
    # Compute panoptic quality with the "panopticapi" package, which must then be installed.
    cfg.TEST.PANOPTIC_API = False
    # Whether MODEL.WEIGHTS may run code: read pickles that hold more than tensors, arrays and plain
    # values. Files of tensors, safetensors and Detectron2's .pkl files never need it. Only the
    # command line or code can set it: what a config file says of it is ignored.
    cfg.MODEL.WEIGHTS_TRUSTED = False

    # Compile backbone and transformer with torch.compile: once for training and once for inference,
    # a minute or more each, for all image sizes. On a CPU nothing is gained (docs/performance.md).
    cfg.MODEL.COMPILE = False

    # Of the backbone "build_torchvision_swin_backbone": which of torchvision's Swin Transformers,
    # such as "swin_t", and its features, of "p0" (stride 4) to "p3" (stride 32).
    cfg.MODEL.SWIN = CN()
    cfg.MODEL.SWIN.NAME = "swin_t"
    cfg.MODEL.SWIN.OUT_FEATURES = ("p1", "p2", "p3")

    cfg.MODEL.DETR = CN()
    # Classes without no-object; 0 takes the number from the first training dataset.
    cfg.MODEL.DETR.NUM_CLASSES = 0
    # Object queries: the most objects that can be found in an image.
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 100
    # Every cell of the encoder's memory predicts an object, and queries start from the boxes of the
    # best cells: for the decoders "dab", "deformable" and "dino". A cell's box starts from a square
    # whose side is PROPOSAL_SIZE of the image's, in (0.01, 0.99), and twice that in each further
    # feature map.
    cfg.MODEL.DETR.TWO_STAGE = False
    cfg.MODEL.DETR.PROPOSAL_SIZE = 0.1
    # What cells learn: "classes" and boxes, all of them; the same, but those alone that queries
    # start from ("chosen", DINO); or whether there is an object of any class ("objectness",
    # Deformable DETR).
    cfg.MODEL.DETR.PROPOSAL_LEARNING = "classes"
    # Of the decoders "dab" and "dino": contents that each query's box is looked at with; 0 is one
    # without any.
    cfg.MODEL.DETR.NUM_PATTERNS = 0
    # The backbone features that the transformer reads, of the backbone's output_shape(), from fine
    # to coarse.
    cfg.MODEL.DETR.IN_FEATURES = ("res5",)
    _register_renamed_keys(cfg)
    # Feature maps in all: those of IN_FEATURES, and further ones made of the last, each half as
    # fine as the one before. With more than one all are normalised.
    cfg.MODEL.DETR.NUM_LEVELS = 1

    # With RESNETS.RES5_DILATION 2 (DC5), whether the first block of res5 is dilated too: "dilated"
    # as in Detectron2, "undilated" as in torchvision and the released weights, or "auto" as the
    # loaded weights were trained, where they tell, else undilated.
    cfg.MODEL.DETR.DC5_FIRST_BLOCK = "auto"
    # The encoder: "detr", or "deformable", whose cells sample all feature maps around themselves.
    cfg.MODEL.DETR.ENCODER = "detr"
    # The decoder: "detr", "conditional", "dab", "deformable", "dino", or any that is registered
    # (docs/decoders.md).
    cfg.MODEL.DETR.DECODER = "detr"
    # What the class head gives: "softmax" over the classes and no-object, or "focal", a sigmoid for
    # every class that learns by the focal loss.
    cfg.MODEL.DETR.CLASSIFICATION = "softmax"

    # Of the decoder "deformable": every layer refines the boxes that the next one looks at.
    cfg.MODEL.DETR.REFINE_BOXES = False
    # Every decoder layer has class and box heads of its own, instead of all layers the same.
    cfg.MODEL.DETR.HEADS_PER_LAYER = False

    # Transformer. HIDDEN_DIM must be divisible by NHEADS, and by 4 for the sine encoding.
    cfg.MODEL.DETR.HIDDEN_DIM = 256
    cfg.MODEL.DETR.NHEADS = 8
    cfg.MODEL.DETR.ENC_LAYERS = 6
    cfg.MODEL.DETR.DEC_LAYERS = 6
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 2048
    # Of deformable attention: samples of every head in every feature map.
    cfg.MODEL.DETR.SAMPLING_POINTS = 4
    # Probability of dropping attention weights and residual branches, in [0, 1).
    cfg.MODEL.DETR.DROPOUT = 0.1
    # Normalise before each sub-layer (True) or after it (False).
    cfg.MODEL.DETR.PRE_NORM = False
    # Of the feed-forward parts: "relu", or "prelu" with one learned slope per layer.
    cfg.MODEL.DETR.ACTIVATION = "relu"
    # "sine", or "learned" for feature maps of at most 50 x 50 cells.
    cfg.MODEL.DETR.POSITION_EMBEDDING = "sine"
    # Ratio of the longest to the shortest wavelength of the sine encoding.
    cfg.MODEL.DETR.POSITION_TEMPERATURE = 10000.0
    # Where in a cell its position lies, in cells after its end: -0.5 is its centre.
    cfg.MODEL.DETR.POSITION_OFFSET = 0.0
    # Of the encoder "detr": scale the position encoding before each encoder layer by what is in the
    # cells (DAB-DETR).
    cfg.MODEL.DETR.ENC_SCALES_POSITIONS = False

    # Losses. DEEP_SUPERVISION applies them to every decoder layer, not to the last one alone.
    cfg.MODEL.DETR.DEEP_SUPERVISION = True
    cfg.MODEL.DETR.CLASS_WEIGHT = 1.0
    # Weight of the class in the matching; 0 is CLASS_WEIGHT. L1_WEIGHT and GIOU_WEIGHT serve both.
    cfg.MODEL.DETR.CLASS_COST = 0.0
    cfg.MODEL.DETR.L1_WEIGHT = 5.0
    cfg.MODEL.DETR.GIOU_WEIGHT = 2.0
    # Weight of no-object within the softmax classification loss (each class weighs 1).
    cfg.MODEL.DETR.NO_OBJECT_WEIGHT = 0.1

    # Denoising of true boxes beside the matching (DN-DETR), for decoders whose queries are boxes.
    cfg.MODEL.DETR.DENOISING = CN()
    cfg.MODEL.DETR.DENOISING.ENABLED = False
    # How often each object is noised, at least 1.
    cfg.MODEL.DETR.DENOISING.GROUPS = 5
    # Probability of a random label, in [0, 1].
    cfg.MODEL.DETR.DENOISING.LABEL_NOISE = 0.2
    # Noise every object twice, slightly and more, and learn to find the first and not the second
    # (DINO); with about NUM_NOISED objects in as many groups as that makes.
    cfg.MODEL.DETR.DENOISING.CONTRASTIVE = False
    cfg.MODEL.DETR.DENOISING.NUM_NOISED = 100
    # The largest shift of a centre (contrastive: of a corner) in half sizes of the box, and the
    # largest change of the sizes.
    cfg.MODEL.DETR.DENOISING.BOX_NOISE = 0.4

    # Masks (MODEL.MASK_ON): focal and dice loss of the last decoder layer.
    cfg.MODEL.DETR.MASK_WEIGHT = 1.0
    cfg.MODEL.DETR.DICE_WEIGHT = 1.0
    # Train the mask head alone and leave the box model as MODEL.WEIGHTS brings it.
    cfg.MODEL.DETR.FREEZE_BOX_MODEL = False
    # The same with the box model of this file or URL, instead of MODEL.WEIGHTS, which must be "".
    # A mask head that the file has too is not used. "" trains everything.
    cfg.MODEL.DETR.FROZEN_WEIGHTS = ""

    # Parts that compute their activations again in the backward pass instead of storing them, for
    # less memory and more time: any of "backbone", "encoder", "decoder".
    cfg.MODEL.DETR.ACTIVATION_CHECKPOINTING = ()

    # Inference. With softmax every query yields one detection at most.
    cfg.MODEL.DETR.TEST = CN()
    # Detections with a lower score are dropped, in [0, 1]. Detectron2's demo raises it, and
    # PANOPTIC_THRESHOLD, to its --confidence-threshold.
    cfg.MODEL.DETR.TEST.SCORE_THRESHOLD = 0.0
    # The best-scored detections kept per image; 0 keeps as many as there are queries.
    cfg.MODEL.DETR.TEST.DETECTIONS_PER_IMAGE = 0
    # Pixels with a higher probability belong to an instance, in (0, 1).
    cfg.MODEL.DETR.TEST.MASK_THRESHOLD = 0.5
    # Add "panoptic_seg" to the results of a mask model. The metadata of the first dataset says
    # which classes are things.
    cfg.MODEL.DETR.TEST.PANOPTIC_ON = False
    # Only queries with a higher score become panoptic segments, in [0, 1].
    cfg.MODEL.DETR.TEST.PANOPTIC_THRESHOLD = 0.85
    # Panoptic segments, stuff and things, of at most this many pixels are dropped.
    cfg.MODEL.DETR.TEST.STUFF_AREA = 4


def load_config(
    config_file: str, opts: Sequence[str] = (), *, allow_unsafe: bool = False
) -> CfgNode:
    """Read a YAML config and ``KEY VALUE`` overrides.

    Without a GPU ``MODEL.DEVICE`` becomes "cpu".

    Args:
        config_file: a path, a URL, the name of one of d2detr's own, or "" for the defaults.
        opts: keys and values in turn.
        allow_unsafe: run what YAML tags such as ``!!python/object/apply`` name. The file can then
            run any code.

    Raises:
        UserError: the file does not exist, is no config or would run code, or a key is unknown or
            has a value of the wrong type.
    """
    cfg = get_cfg()
    add_detr_config(cfg)
    if config_file and "://" not in config_file and not Path(config_file).is_file():
        own = own_config_dir() / config_file.removeprefix("configs/")
        if not own.is_file():
            raise UserError(f"--config-file {config_file} does not exist.")
        config_file = str(own)
    try:
        if config_file:
            cfg = _merge_file(cfg, config_file, allow_unsafe)
        # Lazy configs have lists of their own kind.
        values = [x if isinstance(x, str) or not isinstance(x, Sequence) else list(x) for x in opts]
        cfg.merge_from_list(values)
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        source = " ".join([config_file or "", *map(str, opts)]).strip()
        raise UserError(f"The config cannot be read: {error.args[0]} ({source})") from None
    check_device(cfg.MODEL.DEVICE)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def own_config_dir() -> Path:
    """Return the folder of d2detr's own configs, of an installed package or of a checkout."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    return next(folder for folder in folders if (folder / "Base-DETR.yaml").is_file())


class _ConfigFile(CfgNode):
    """A config that says which file of a chain of ``_BASE_`` is at fault, and where."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        try:
            content = super().load_yaml_with_base(filename, allow_unsafe)
        except yaml.YAMLError as error:
            if "tag:yaml.org,2002:python/" not in str(error):
                raise UserError(f"{filename} is not YAML: {_explain(error)}.") from None
            raise UserError(
                f"{filename} was not read, because reading it could run code: {_explain(error)}. "
                "If you trust where it comes from, read it with "
                "d2detr.config.load_config(..., allow_unsafe=True), whose result Predictor and "
                "trainers take."
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(f"{filename} is no UTF-8 text: {error.reason}.") from None
        except OSError as error:
            raise UserError(f"Config {filename} cannot be read: {error}.") from None
        except RecursionError:
            raise UserError(f"{filename} is its own _BASE_, be it through others.") from None
        except TypeError:  # it was searched for _BASE_
            content = None
        if not isinstance(content, dict):
            raise UserError(
                f"{filename} is no config: from line 1 on it must hold keys with values, such as "
                "'MODEL: ...', but it is empty or holds something else."
            )
        _rename_keys(content)
        return content


def _register_renamed_keys(cfg: CfgNode) -> None:
    cfg.register_renamed_key("MODEL.DETR.IN_FEATURE", "MODEL.DETR.IN_FEATURES")


def _rename_keys(content: dict[str, Any]) -> None:
    """Give keys of former versions their present names."""
    detr = (content.get("MODEL") or {}).get("DETR") or {}
    if "IN_FEATURE" in detr:
        detr["IN_FEATURES"] = (detr.pop("IN_FEATURE"),)
        logger.warning(
            "MODEL.DETR.IN_FEATURE is called IN_FEATURES now, and was read as "
            f"{detr['IN_FEATURES']}."
        )


def _explain(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"


def _merge_file(cfg: CfgNode, config_file: str, allow_unsafe: bool) -> CfgNode:
    reader = _ConfigFile(cfg)
    reader.merge_from_file(config_file, allow_unsafe=allow_unsafe)
    cfg = CfgNode(reader)
    _register_renamed_keys(cfg)
    if cfg.MODEL.WEIGHTS_TRUSTED:
        logger.warning(
            f"MODEL.WEIGHTS_TRUSTED of {config_file} is ignored: a file cannot trust weights. If "
            "you do, add MODEL.WEIGHTS_TRUSTED True to the command line."
        )
        cfg.MODEL.WEIGHTS_TRUSTED = False
    return cfg


def check_device(name: str) -> None:
    """Check the name of a device.

    Raises:
        UserError: torch knows no such device.
    """
    try:
        torch.device(name)
    except RuntimeError:
        raise UserError(
            f"MODEL.DEVICE is {name!r}, which is no device: choose cpu, cuda or cuda:0, cuda:1 ..."
        ) from None


def check_training_settings(cfg: CfgNode) -> None:
    """Check the counts and periods of a training.

    Raises:
        UserError: one of them makes no sense.
    """
    for key in ("IMS_PER_BATCH", "MAX_ITER", "CHECKPOINT_PERIOD"):
        if cfg.SOLVER[key] < 1:
            raise UserError(f"SOLVER.{key} is {cfg.SOLVER[key]}, but must be at least 1.")
    for key in ("LOSS_PERIOD", "PATIENCE"):
        if cfg.TEST[key] < 0:
            raise UserError(f"TEST.{key} is {cfg.TEST[key]}, but must be at least 0.")
    if cfg.TEST.PATIENCE and not (cfg.TEST.BEST_METRIC and cfg.TEST.EVAL_PERIOD > 0):
        raise UserError(
            f"TEST.PATIENCE is {cfg.TEST.PATIENCE}, but nothing is compared: it needs a "
            "TEST.BEST_METRIC and a TEST.EVAL_PERIOD above 0."
        )


def check_score_threshold(value: float, name: str) -> None:
    """Check a threshold of scores.

    Raises:
        UserError: it is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}; it must be in [0, 1].")


def demo_threshold(cfg: CfgNode) -> float:
    """Return the ``--confidence-threshold`` of Detectron2's demo, or 0.0 elsewhere.

    The demo sets the thresholds of all of Detectron2's own models to it. Only then they are equal:
    by default they differ, and DETR must not lose detections, and AP, by Detectron2's 0.05.
    """
    thresholds = {
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST,
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH,
    }
    return thresholds.pop() if len(thresholds) == 1 else 0.0
