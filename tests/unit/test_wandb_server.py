"""The stand-in for W&B is itself held: it knows the SDK's documents and takes nothing else."""

import base64
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

pytest.importorskip("wandb", reason="the group `wandb` is not installed")

from wandb_documents import UnlikeError, documents, known, require_known
from wandb_server import KEY


def asked(server: Any, query: str, key: str = KEY) -> tuple[int, Any]:
    body = json.dumps({"query": query, "variables": {}}).encode()
    word = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.address}/graphql", body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_documents_of_modules_and_of_the_core_process_are_found() -> None:
    found = documents()
    of_modules = {"ArtifactMembershipByName", "AddAliases", "DeleteAliases", "ProjectArtifacts"}
    of_core = {"UpsertBucket", "CreateArtifact", "CommitArtifact", "CreateArtifactFiles"}
    assert of_modules | of_core <= found.keys()
    assert len(found) > 100
    assert len(known("UpdateArtifact")) == 2  # one of each


def test_a_document_counts_by_what_it_says_not_by_its_blanks() -> None:
    assert (
        require_known(
            "query RunState($entity:String!,$project:String!,$run:String!)"
            "{project(name:$project,entityName:$entity){run(name:$run){id state}}}"
        )
        == "RunState"
    )


@pytest.mark.parametrize(
    "query",
    [
        "query RunState($run: String!) { project(name: $run) { id } }",
        "query Mine { viewer { id } }",
        "{ viewer { id } }",
        "query Viewer { viewer",
    ],
)
def test_what_is_not_the_sdks_own_is_refused_and_noted(wandb_house: Any, query: str) -> None:
    with pytest.raises(UnlikeError):
        require_known(query)
    status, told = asked(wandb_house, query)
    assert (status, list(told)) == (400, ["errors"])
    assert len(wandb_house.refused) == 1
    assert wandb_house.asked == []


def test_who_has_no_key_is_told_nothing(wandb_house: Any) -> None:
    status, told = asked(wandb_house, "query Viewer { viewer { id } }", key="another")
    assert status == 401
    assert "data" not in told


def test_bytes_with_another_md5_are_not_taken(wandb_house: Any) -> None:
    url = wandb_house.promise("somewhere", base64.b64encode(bytes(16)).decode())
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.urlopen(urllib.request.Request(url, b"bytes", method="PUT"))
    told.value.close()
    assert told.value.code == 400
    assert "somewhere" not in wandb_house.blobs
