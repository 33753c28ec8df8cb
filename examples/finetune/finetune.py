"""Fine-tune the memory of an audio language model, and optionally a LoRA on it, on conversations.

    accelerate launch examples/finetune/finetune.py --base-model Qwen/Qwen2-Audio-7B-Instruct \
        --memory-layers 8 16 24 --dataset iemocap --data-dir IEMOCAP_full_release --label-set 4-class --fold 5 \
        --lora-r 16 --dtype bfloat16 --checkpoint-blocks --output-dir iemocap-fold5

It is `titans-mal train` as a script, for launchers. It ends with `OUTPUT_DIR/model`, which
`AutoModelForAudioEmotion.from_pretrained` loads, and `OUTPUT_DIR/report`. All options of transformers'
`TrainingArguments` are options here; `per_device_train_batch_size` counts conversations.
"""

import sys

from titans_mal.cli.train import main


if __name__ == "__main__":
    sys.exit(main(program="finetune.py"))
