"""LitServe as a peer: a LitAPI whose worker decodes and answers. It must be importable by name."""

from pathlib import Path

import litserve

from benchmarks.peers import by_pulmo, by_session
from pulmo.core.bundle import verify


class Api(litserve.LitAPI):
    """Pictures by multipart, as LitServe's documentation of file requests has it."""

    def __init__(self, folder: Path, *, tuned: bool) -> None:
        super().__init__()
        self.folder, self.tuned = folder, tuned

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.classify = (by_pulmo if self.tuned else by_session)(verify(self.folder))

    def decode_request(self, request):  # LitServe reads annotations as a schema
        """The field `file` of a form."""
        data: bytes = request["file"].file.read()
        return data

    def predict(self, data: bytes) -> dict[str, float]:
        """Bytes to probabilities."""
        return self.classify(data)

    def encode_response(self, output):
        """As it is."""
        return output


def serve(folder: Path, port: int, *, tuned: bool) -> None:
    """One worker, one server; tuned: its queue without copies through a manager."""
    server = litserve.LitServer(
        Api(folder, tuned=tuned), accelerator="cpu", workers_per_device=1, fast_queue=tuned
    )
    server.run(port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
