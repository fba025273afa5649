#!/usr/bin/env bash
# The main job from end to end on drawn data: train, test, look. Minutes on two CPU cores.
# Everything lands in work_dirs/demo; WORK_DIR chooses another folder.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
root=$PWD
source tools/python.sh
export PYTHON
config=configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py
work=${WORK_DIR:-work_dirs/demo}
started=$SECONDS
step() { echo; echo "== $1"; }

step "1/5 draw the data: data/demo"
"$PYTHON" tools/make_demo_coco.py data/demo --train 1000 --val 100

step "2/5 train in 2 processes: bash dist_train.sh $config 2"
rm -rf "$work"
bash dist_train.sh $config 2 --work-dir "$work"

step "3/5 test: bash dist_test.sh $config $work/latest.pth 2 --eval bbox segm"
bash dist_test.sh $config "$work/latest.pth" 2 --work-dir "$work" --fuse-conv-bn \
    --out "$work/results.pkl" --eval bbox segm

step "4/5 pictures: prediction beside truth"
"$PYTHON" tools/show_results.py $config "$work/results.pkl" --out "$work/pictures" --score-thr 0.5

step "5/5 curves"
"$PYTHON" tools/plot_logs.py "$work"/*.log.json --out "$work/curves.png"

"$PYTHON" - "$work" $((SECONDS - started)) <<'PY'
import glob, json, sys
work, seconds = sys.argv[1], int(sys.argv[2])
metric = json.load(open(sorted(glob.glob(f"{work}/eval_*.json"))[-1]))["metric"]
box, mask = metric["bbox_mAP"], metric["segm_mAP"]
print(f"""
The demo took {seconds // 60} min {seconds % 60} s and reached on 100 images it never trained on:
    box AP {box:.3f}    mask AP {mask:.3f}    (expected: at least 0.400 each)
Where things are:
    checkpoint  {work}/latest.pth
    metrics     {work}/eval_*.json
    pictures    {work}/pictures/
    curves      {work}/curves.png
    TensorBoard tensorboard --logdir {work}/tf_logs""")
sys.exit(min(box, mask) < 0.40)
PY
