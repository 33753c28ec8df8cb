"""Run by two processes: what befalls the second alone, a loss that is not finite or a signal, both act upon."""

import os
import signal
import sys

import torch
from accelerate.utils import gather
from tiny_models import LABELS, tiny_model, tiny_processor

from titans_mal import ConversationTrainer, ConversationTrainingArguments, choose_trained_parts, load_conversations
from titans_mal.processes import end_processes
from titans_mal.training import last_good_checkpoint


def main(talks: str, output: str, what: str, call: str) -> None:
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

    def befallen(*args, **kwargs):
        calls.append(None)
        is_hit = len(calls) == int(call) and trainer.args.process_index == 1
        if is_hit and what == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(*args, **kwargs) * (float("nan") if is_hit and what == "nan" else 1.0)

    trainer.compute_loss = befallen
    trainer.train()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.titans_memory.parameters()])
    one, two = gather(weights).chunk(2)
    assert torch.equal(one, two)
    assert one.isfinite().all()
    if trainer.is_world_process_zero():
        print(f"skipped {trainer.skipped.count}, stopped at {trainer.state.global_step} by {trainer.stopped.received}")
        print(f"to go on from {last_good_checkpoint(output)}; the weights of both processes are the same")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
    end_processes()
