"""What the loopback server of `wandb_server` answers to each field of W&B's GraphQL."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from wandb.proto.wandb_internal_pb2 import ServerFeature
from wandb_server import EMAIL, ENTITY, LIMIT, Collection, Run, Version, Wandb

Node = dict[str, Any]
After = list[Callable[[], None]]

FIRST = "2026-01-01T00:00:00+00:00"


def root(state: Wandb, after: After) -> Node:
    """The fields of queries and mutations; what is to be done after the answer goes to `after`."""
    return {**_queries(state), **_mutations(state, after)}


def _queries(state: Wandb) -> Node:
    def project(name: str | None = None, entityName: str | None = None) -> Node | None:  # noqa: N803
        known = {run.project for run in state.runs.values()}
        if name not in known or entityName not in (None, ENTITY):
            return None
        return _project(state, str(name))

    def model(name: str, entityName: str | None = None) -> Node | None:  # noqa: N803
        found = project(name, entityName)
        bucket = lambda name, missingOk=False: _bucket(state.runs.get(name))  # noqa: E731, N803
        return found and {**found, "bucket": bucket}

    def artifact(id: str) -> Node | None:  # noqa: A002
        for collection in state.collections.values():
            for version in collection.versions:
                if version.id == id:
                    return _artifact(state, collection, version)
        return None

    viewer = {
        **_kind("User", "user"),
        "entity": ENTITY,
        "name": "Ada",
        "username": "ada",
        "email": EMAIL,
        "admin": False,
        "flags": "{}",
        "deletedAt": None,
        "apiKeys": _edges([]),
        "teams": _edges([{"name": ENTITY}]),
    }
    features = [{"name": name, "isEnabled": True} for name in list(ServerFeature.keys())]
    return {
        "viewer": viewer,
        "serverInfo": {"features": features},
        "entity": lambda name: {"name": name, "xxhashDigestsEnabled": False, "organization": None},
        "organization": lambda name: None,
        "project": project,
        "model": model,
        "artifact": artifact,
    }


def _mutations(state: Wandb, after: After) -> Node:
    take = _Mutations(state, after)
    return {
        "upsertBucket": take.upsert_bucket,
        "createRunFiles": take.create_run_files,
        "markRunFilesUploaded": lambda input: {"success": True},  # noqa: A006
        "createArtifact": take.create_artifact,
        "createArtifactManifest": take.create_manifest,
        "createArtifactFiles": take.create_artifact_files,
        "commitArtifact": take.commit,
        "updateArtifact": take.update,
        "addAliases": take.add_aliases,
        "deleteAliases": take.delete_aliases,
        "deleteArtifact": take.delete,
    }


class _Mutations:
    """What changes the server's state; each takes the mutation's `input`."""

    def __init__(self, state: Wandb, after: After) -> None:
        self._state, self._after = state, after

    def upsert_bucket(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        name = input.get("name")
        by_id = [run for run in self._state.runs.values() if run.id == input.get("id")]
        run = by_id[0] if by_id else self._state.runs.get(str(name))
        new = run is None
        if run is None:
            project = input.get("modelName") or "uncategorized"
            assert len(project) < LIMIT
            run = Run(self._state.new_id("Run"), str(name), project, str(name))
            self._state.runs[run.name] = run
        run.display = input.get("displayName") or run.display
        run.job_type = input.get("jobType") or run.job_type
        run.config = json.loads(input["config"]) if input.get("config") else run.config
        if input.get("summaryMetrics"):
            run.summary = json.loads(input["summaryMetrics"])
        return {"bucket": _bucket(run), "inserted": new}

    def create_run_files(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        run = self._state.runs[input["runName"]]

        def place(name: str) -> Node:
            def keep(body: bytes) -> None:
                run.files[name] = body

            return {"name": name, "uploadUrl": self._state.promise(f"{run.id}/{name}", None, keep)}

        return {"runID": run.id, "uploadHeaders": [], "files": [place(n) for n in input["files"]]}

    def create_artifact(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        state, name = self._state, input["artifactCollectionName"]
        key = (input["projectName"], name)
        if key not in state.collections:
            number = state.new_id("ArtifactCollection")
            state.collections[key] = Collection(number, name, input["artifactTypeName"], key[0])
        collection = state.collections[key]
        wanted = [one["alias"] for one in input.get("aliases") or []]
        version = next((v for v in collection.committed if v.digest == input["digest"]), None)
        if version is None:
            version = Version(
                state.new_id("Artifact"),
                input["digest"],
                input.get("metadata"),
                input.get("description"),
                wanted,
                input.get("runName"),
            )
            collection.versions.append(version)
        else:
            collection.aliases.update(dict.fromkeys(wanted, version.id))
        return {"artifact": _artifact(state, collection, version)}

    def create_manifest(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        _, version = self._find(input["artifactID"])

        def keep(body: bytes) -> None:
            version.manifest = body

        place = f"manifest/{version.id}"
        md5 = input["digest"] or None
        file = {
            "id": self._state.new_id("File"),
            "uploadUrl": lambda: self._state.promise(place, md5, keep),
            "uploadHeaders": [f"Content-MD5:{md5}"] if md5 else [],
        }
        return {"artifactManifest": {"id": self._state.new_id("Manifest"), "file": file}}

    def create_artifact_files(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        nodes = []
        for spec in input["artifactFiles"]:
            collection, version = self._find(spec["artifactID"])
            digest = base64.b64decode(spec["md5"]).hex()
            place = f"artifact/{collection.id}/{digest}"
            version.files[spec["name"]] = place
            stored = place in self._state.blobs
            nodes.append(
                {
                    "storagePath": place,
                    "uploadUrl": None if stored else self._state.promise(place, spec["md5"]),
                    "uploadHeaders": [f"Content-MD5:{spec['md5']}"],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": version.id},
                }
            )
        return {"files": _edges(nodes)}

    def commit(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        collection, version = self._find(input["artifactID"])
        told = hashlib.md5(b"wandb-artifact-manifest-v1\n")
        for name, entry in sorted(version.contents.items()):
            told.update(f"{name}:{entry['digest']}\n".encode())
            digest = base64.b64decode(entry["digest"]).hex()
            assert f"artifact/{collection.id}/{digest}" in self._state.blobs, f"{name} is missing"
        assert told.hexdigest() == version.digest, "the digest is not that of the manifest"
        version.number = len(collection.committed)
        collection.aliases.update(dict.fromkeys(version.wanted, version.id))
        return {"artifact": _artifact(self._state, collection, version)}

    def update(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        collection, version = self._find(input["artifactID"])
        version.metadata = input.get("metadata", version.metadata)
        version.description = input.get("description", version.description)
        return {"artifact": _artifact(self._state, collection, version)}

    def add_aliases(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        collection, version = self._find(input["artifactID"])
        for alias in self._aliases(input):
            collection.aliases[alias] = version.id
            self._after.append(
                lambda alias=alias: self._state.tell(collection, version, alias)  # type: ignore[misc]
            )
        return {"success": True}

    def delete_aliases(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        collection, version = self._find(input["artifactID"])
        for alias in self._aliases(input):
            if collection.aliases.get(alias) == version.id:
                del collection.aliases[alias]
        return {"success": True}

    def delete(self, input: Mapping[str, Any]) -> Node:  # noqa: A002
        collection, version = self._find(input["artifactID"])
        collection.versions[collection.versions.index(version)].files.clear()
        version.number, version.digest = None, "deleted"
        return {"artifact": {"id": version.id}}

    def _aliases(self, input: Mapping[str, Any]) -> list[str]:  # noqa: A002
        found = [one["alias"] for one in input["aliases"]]
        if held := sorted(self._state.protected & set(found)):
            raise PermissionError(f"{', '.join(held)} is protected")
        return found

    def _find(self, number: str) -> tuple[Collection, Version]:
        for collection in self._state.collections.values():
            for version in collection.versions:
                if version.id == number:
                    return collection, version
        raise PermissionError(f"no artifact {number}")


def _project(state: Wandb, owner: str) -> Node:
    def collection(name: str) -> Node | None:
        found = state.collections.get((owner, name))
        return None if found is None else _collection(state, found)

    def typed(name: str) -> Node | None:
        fitting = [c for k, c in state.collections.items() if k[0] == owner and c.kind == name]

        def of_type(name: str) -> Node | None:
            return next((_collection(state, one) for one in fitting if one.name == name), None)

        node = {**_kind("ArtifactType", f"type:{name}"), "name": name}
        return {**node, "artifactCollection": of_type} if fitting else None

    def membership(name: str) -> Node | None:
        word, _, alias = name.partition(":")
        found = state.collections.get((owner, word))
        version = found.find(alias or "latest") if found else None
        return _membership(state, found, version) if found and version else None

    def artifact(name: str) -> Node | None:
        found = membership(name)
        return found and found["artifact"]

    def run(name: str) -> Node | None:
        return _bucket(state.runs.get(name))

    return {
        **_owner(owner),
        "readOnly": False,
        "artifactType": typed,
        "artifactCollection": collection,
        "artifactCollectionMembership": membership,
        "artifact": artifact,
        "run": run,
    }


def _collection(state: Wandb, one: Collection) -> Node:
    def artifacts(
        after: str | None = None,
        first: int = 50,
        order: str | None = None,
        filters: str | None = None,
    ) -> Node:
        versions = one.committed[::-1]
        page = versions[int(after or 0) :][:first]
        end = int(after or 0) + len(page)
        nodes = [_artifact(state, one, version) for version in page]
        edges = [{"version": f"v{node['versionIndex']}", "node": node} for node in nodes]
        return {
            "totalCount": len(versions),
            "pageInfo": _page(end < len(versions), str(end)),
            "edges": edges,
        }

    def membership(aliasName: str) -> Node | None:  # noqa: N803
        version = one.find(aliasName)
        return _membership(state, one, version) if version else None

    return {
        **_kind("ArtifactSequence", one.id),
        "name": one.name,
        "description": None,
        "createdAt": FIRST,
        "updatedAt": None,
        "project": _owner(one.project),
        "defaultArtifactType": {"name": one.kind},
        "tags": _edges([]),
        "digestAlgorithm": "MANIFEST_MD5",
        "artifacts": artifacts,
        "artifactMembership": membership,
        "latestArtifact": lambda: _latest(state, one),
    }


def _latest(state: Wandb, collection: Collection) -> Node | None:
    version = collection.find("latest")
    return _artifact(state, collection, version) if version else None


def _membership(state: Wandb, collection: Collection, version: Version) -> Node:
    def files(after: str | None = None, first: int = 50, names: list[str] | None = None) -> Node:
        nodes = [
            {
                **_kind("File", f"{version.id}/{name}"),
                "name": name,
                "displayName": name,
                "sizeBytes": len(state.blobs[place]),
                "directUrl": state.url(place),
                "url": state.url(place),
            }
            for name, place in sorted(version.files.items())
            if names is None or name in names
        ]
        return {**_edges(nodes), "totalCount": len(nodes), "pageInfo": _page(False, None)}

    return {
        **_kind("ArtifactCollectionMembership", f"membership:{version.id}"),
        "versionIndex": version.number,
        "createdAt": version.created,
        "aliases": _aliases(collection, version),
        "artifactCollection": {
            "__typename": "ArtifactSequence",
            "name": collection.name,
            "project": _owner(collection.project),
        },
        "artifact": _artifact(state, collection, version),
        "files": files,
    }


def _artifact(state: Wandb, collection: Collection, version: Version) -> Node:
    def manifest() -> Node:
        place = f"manifest/{version.id}"
        return {"file": {"directUrl": state.url(place)}}

    committed = version.number is not None
    return {
        **_kind("Artifact", version.id),
        "artifactSequence": lambda: _collection(state, collection),
        "versionIndex": version.number,
        "artifactType": {"name": collection.kind},
        "description": version.description,
        "metadata": version.metadata,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED" if committed else "PENDING",
        "size": sum(entry["size"] for entry in version.contents.values()),
        "digest": version.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": hashlib.sha1(version.id.encode()).hexdigest(),
        "fileCount": len(version.files),
        "createdAt": version.created,
        "updatedAt": datetime.now(UTC).isoformat(),
        "aliases": _aliases(collection, version),
        "currentManifest": manifest if committed else None,
    }


def _aliases(collection: Collection, version: Version) -> list[Node]:
    owner = {
        "__typename": "ArtifactSequence",
        "name": collection.name,
        "project": _owner(collection.project),
    }
    return [
        {
            **_kind("ArtifactAlias", f"{collection.id}:{alias}"),
            "alias": alias,
            "artifactCollection": owner,
        }
        for alias, at in sorted(collection.aliases.items())
        if at == version.id
    ]


def _bucket(run: Run | None) -> Node | None:
    if run is None:
        return None
    return {
        **_kind("Run", run.id),
        "name": run.name,
        "displayName": run.display,
        "description": None,
        "config": json.dumps(run.config),
        "summaryMetrics": json.dumps(run.summary),
        "sweepName": None,
        "project": _owner(run.project),
        "historyLineCount": len(run.stream.get("wandb-history.jsonl", [])),
        "logLineCount": 0,
        "eventsLineCount": 0,
        "historyTail": "[]",
        "eventsTail": "[]",
        "tags": [],
        "notes": None,
        "wandbConfig": "{}",
        "state": "finished" if run.finished else "running",
    }


def _owner(project: str) -> Node:
    return {
        **_kind("Project", f"project:{project}"),
        "internalId": f"internal:{project}",
        "name": project,
        "entity": {"id": f"entity:{ENTITY}", "name": ENTITY},
    }


def _kind(typename: str, id_: str) -> Node:
    return {"__typename": typename, "id": id_}


def _edges(nodes: list[Any]) -> Node:
    return {"edges": [{"node": node} for node in nodes]}


def _page(more: bool, end: str | None) -> Node:
    return {"__typename": "PageInfo", "hasNextPage": more, "endCursor": end}
