"""A separate worker, for what is measured from outside: ``python -m exotrio worker tests.bench.worker``."""

from exotrio import Runtime
from tests.bench.work import NAMESPACE, NODES

runtime = Runtime(NAMESPACE, "worker", list(NODES))
