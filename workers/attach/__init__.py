"""Balances and records somebody else's model: Hugging Face, torchtitan, plain PyTorch.

    routers       finds them: who calls topk on what, in one probe batch
    proof         what is shown of each before anything changes
    interception  selects on score + bias inside a router, and sees every selection
    bias          where a bias is kept, in float32
    passes        which forwards count, and which of their tokens
    stacks        counts and rule state of layers of one size
    attachment    all of it put into a model, and taken out again
    ranks         one sum per optimizer step
    session       attach(), and the session it returns

Imports torch and the rules, neither ray nor mlflow nor sqlalchemy, and transformers only in
`trainer_callback`: it lives in other people's training processes.
"""

from evenload.workers.attach.errors import AttachError as AttachError
from evenload.workers.attach.session import Balance as Balance
from evenload.workers.attach.session import attach as attach
