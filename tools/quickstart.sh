#!/usr/bin/env bash
# From nothing to a trained, evaluated detector with pictures of what it sees. Arguments go to
# training: bash tools/quickstart.sh SOLVER.MAX_ITER 1000 SOLVER.STEPS "()", except OUTPUT_DIR, which
# is output/quickstart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/show_help.sh
source tools/setup_env.sh "" # or else it would take this script's arguments for its own
output=output/quickstart

echo "[quick start] training a small DETR from scratch on the embedded shapes; log: $output/log.txt"
python tools/train_net.py --config-file configs/quickstart.yaml "$@" OUTPUT_DIR "$output"
python tools/visualize_results.py --dataset shapes_val --order first \
    --results "$output/inference/coco_instances_results.json" --output "$output/predictions.png"

cat << END

[quick start] done. In $output/:
  report.html          all there is to see, as one page: open it in a browser
  predictions.png      validation images, truth on the left and predictions on the right
  metrics.json         losses and AP; TensorBoard reads the same: tensorboard --logdir $output
  model_final.pth      the checkpoint
  config.yaml          the exact config
  inference/coco_instances_results.json
END
