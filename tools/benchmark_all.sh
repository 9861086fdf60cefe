#!/usr/bin/env bash
# Measures the ratios and options of docs/performance.md, in an active environment:
#   pip install -e '.[benchmark]' && bash tools/benchmark_all.sh
# Reports go to output/benchmark/ as JSON, too. Takes about 20 minutes; keep the machine quiet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/show_help.sh
mkdir -p output/benchmark

measure() { # NAME and the arguments of tools/benchmark.py
    local name=$1
    shift
    echo "== $name: tools/benchmark.py $*"
    python -W ignore tools/benchmark.py --json "output/benchmark/$name.json" "$@"
}

masks=configs/detr_panoptic_r50.yaml
measure inference --task eval --compare huggingface
measure inference_bf16 --task eval --compare huggingface --amp bf16
measure inference_compiled --task eval --compare huggingface --compile --rounds 5
measure inference_masks --task eval --config-file $masks --compare huggingface --rounds 5
for peer in detectron2 unfolded channels-first; do
    measure "backbone_$peer" --task backbone --compare "$peer" --rounds 5
done
measure training --task train --batch 2 --size 400x533 --compare huggingface
measure training_bf16 --task train --batch 2 --size 400x533 --compare huggingface --amp bf16
measure training_compiled --task train --batch 2 --size 400x533 --compare huggingface --compile \
    --rounds 5
measure losses --task criterion --batch 16 --compare huggingface --rounds 30
measure boxes --task postprocess --batch 8 --compare huggingface --rounds 100
measure panoptic --task postprocess --config-file $masks --compare huggingface --rounds 20
for queries in 300 900; do
    measure "deformable_attention_$queries" --task deformable_attention --compare huggingface \
        --threads 2 MODEL.DETR.NUM_OBJECT_QUERIES "$queries"
done
measure deformable_self_attention --task deformable_self_attention --compare huggingface --threads 2
measure checkpointing --task train --batch 2 --size 400x533 \
    MODEL.DETR.ACTIVATION_CHECKPOINTING "('backbone', 'encoder', 'decoder')"
measure accumulation --task train --batch 2 --size 400x533 SOLVER.ACCUMULATE_STEPS 2
for batch in 1 16; do
    measure "small_model_batch_$batch" --task eval --config-file configs/quickstart.yaml \
        --size 96x96 --batch "$batch"
done
# Of a dataset: the embedded one, or coco_2017_train where DETECTRON2_DATASETS has it.
dataset=${DATASET:-shapes_train}
measure mapper --task data --dataset "$dataset" --batch 8 --compare huggingface \
    INPUT.CROP.ENABLED False INPUT.RANDOM_FLIP none
measure evaluation --task evaluate --dataset "$dataset" --batch 100 --compare pycocotools --rounds 5
for batch in 2 8 16; do
    measure "padding_$batch" --task data --dataset "$dataset" --batch "$batch" --rounds 1
done
