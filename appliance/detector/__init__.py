"""The user's detector; see `faster_rcnn`."""

from appliance.detector.faster_rcnn import FasterRCNN as FasterRCNN
