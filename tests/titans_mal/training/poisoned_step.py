"""Run by two processes: one has a loss that is not finite, in one of two micro-steps."""

import sys

import torch
from accelerate.utils import gather
from tiny_models import LABELS, tiny_model, tiny_processor

from titans_mal import ConversationTrainer, ConversationTrainingArguments, choose_trained_parts, load_conversations


def main(talks: str, output: str, bad_call: str) -> None:
    model = tiny_model()
    choose_trained_parts(model)
    arguments = ConversationTrainingArguments(
        output_dir=output,
        window=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    table = load_conversations(talks, label_set=LABELS)["train"]
    trainer = ConversationTrainer(model, arguments, processor=tiny_processor(), train_dataset=table)
    compute, calls = trainer.compute_loss, []

    def poisoned(*args, **kwargs):
        calls.append(None)
        is_bad = len(calls) == int(bad_call) and trainer.args.process_index == 1
        return compute(*args, **kwargs) * (float("nan") if is_bad else 1.0)

    trainer.compute_loss = poisoned
    trainer.train()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.titans_memory.parameters()])
    one, two = gather(weights).chunk(2)
    assert torch.equal(one, two)
    assert one.isfinite().all()
    if trainer.is_world_process_zero():
        print(f"skipped {trainer.skipped.count} of 3 steps, and the weights of both processes are the same")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
