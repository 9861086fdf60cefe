"""From images to detections."""

from d2detr.predict.inputs import Video, find_images
from d2detr.predict.predictions import predict_images, predict_video
from d2detr.predict.predictor import Predictor

__all__ = ["Predictor", "Video", "find_images", "predict_images", "predict_video"]
