"""The calls of a SuperLink's fleet API, one after the other; they block. Only here is flwr imported.

A run's configuration is read from its app bundle; no code in there is ever run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.config import get_fused_config_from_fab
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode
from flwr.common.serde import fab_from_proto, message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.outbox import released
from protos.arrays import Arrays, encode_arrays, forms
from protos.blobs import Blob
from protos.tasks import TASK_ID_BYTES, Task, workload_digest
from scheduler.errors import TurnedAway

from . import ask
from .ask import Described
from .vault import Vault

QUERY = "query"  # the message type with which a coordinator asks how things stand
HEARTBEAT_S = float(HEARTBEAT_DEFAULT_INTERVAL)
NODE_RECORD = "superlink-node"  # the node's id, while it is online


class _Outgoing:
    """Lets no request out that the outbox does not list."""

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Look at a request before it is sent."""
        released(context.message)
        return call_next(context)


class Calls:
    """A node of a SuperLink. `known` are the workloads that the device can train.

    Every method raises httpx.HTTPError for what a SuperLink or the network refuses.
    """

    def __init__(
        self,
        address: str,
        *,
        insecure: bool,
        root_certificates: str | None,
        key: ec.EllipticCurvePrivateKey,
        vault: Vault,
        known: tuple[Described, ...],
        now_s: Callable[[], float],
    ) -> None:
        public_key = key.public_key()
        self._public_key = public_key_to_bytes(public_key)
        self._vault, self._known, self._now_s = vault, known, now_s
        self._node = Node()
        self._configs: dict[int, dict[str, Any]] = {}
        self._client = FleetHttpClient.from_server_address(
            address,
            insecure,
            root_certificates,
            interceptors=[
                _Outgoing(),
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, public_key),
            ],
        )

    @property
    def node_id(self) -> int:
        """The id that the SuperLink drew; 0 before the node is active."""
        return int(self._node.node_id)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def register(self) -> None:
        """Make the node's key known; refused where it is known."""
        self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))

    def activate(self) -> None:
        """Become a node that is online.

        One that was killed, or lost its network, is taken for online still, and let in only once it is not.
        """
        if (was := self._vault.get(NODE_RECORD)) is not None:
            with suppress(httpx.HTTPStatusError):  # the SuperLink has noticed, or is another one
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=int.from_bytes(was)))
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        self._vault.put(NODE_RECORD, self.node_id.to_bytes(8))

    def deactivate(self) -> None:
        """Be offline."""
        self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._vault.remove(NODE_RECORD)

    def heartbeat(self) -> bool:
        """Say that the node is alive; whether the SuperLink knows it."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        return bool(self._client.SendNodeHeartbeat(request).success)

    def pull(self) -> tuple[FlowerMessage, Task | None] | None:
        """The next message, and its task with model and envelope in the vault; no task for a query."""
        found = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not found.messages_list:
            return None
        message = message_from_proto(found.messages_list[0])
        if message.metadata.message_type == QUERY:
            return message, None
        config = self._config(message.metadata.run_id)
        content = self._content(message, found.message_object_trees[0])
        config |= {
            name: value
            for record in content.config_records.values()
            for name, value in record.items()
            if isinstance(value, bool | int | float | str)
        }
        arrays = {
            name: array.numpy()
            for record in content.array_records.values()
            for name, array in record.items()
        }
        task = self._task(message, config, encode_arrays(arrays), self._workload(config, arrays))
        envelope = message_to_proto(remove_content_from_message(message)).SerializeToString()
        self._vault.put(ask.envelope_record(task.task_id.hex()), envelope)
        return message, task

    def _task(
        self, message: FlowerMessage, config: dict[str, Any], model: bytes, workload: Described
    ) -> Task:
        metadata = message.metadata
        blob = Blob(digest=hashlib.sha256(model).digest(), size_bytes=len(model))
        self._vault.put(ask.model_record(blob.digest.hex()), model)
        return Task(
            task_id=hashlib.sha256(metadata.message_id.encode()).digest()[:TASK_ID_BYTES],
            device_id=self._node.node_id,
            run_id=metadata.run_id,
            kind=metadata.message_type,
            round_number=int(config.get("server-round", 0)),
            workload=workload.name,
            workload_digest=bytes.fromhex(workload.digest),
            config=config,
            model=blob,
            issued_at_s=metadata.created_at,
            expires_at_s=metadata.created_at + metadata.ttl,
        )

    def _workload(self, config: dict[str, Any], arrays: Arrays) -> Described:
        """The workload that is asked for by name; a device that knows only one trains that or none."""
        asked = str(config.get("workload", "watch"))
        names = [known.name for known in self._known]
        name = asked if asked in names or len(names) != 1 else names[0]
        return Described(name=name, digest=workload_digest(name, forms(arrays)).hex())

    def _config(self, run_id: int) -> dict[str, Any]:
        """A run's configuration, read from its app bundle once."""
        if run_id not in self._configs:
            request = GetRunRequest(node=self._node, run_id=run_id)
            run = run_from_proto(self._client.GetRun(request).run)
            wanted = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
            fab = fab_from_proto(self._client.GetFab(wanted).fab)
            self._configs[run_id] = dict(get_fused_config_from_fab(fab.content, run))
        return dict(self._configs[run_id])

    def _content(self, message: FlowerMessage, tree: ObjectTree) -> RecordDict:
        pull = make_pull_object_fn_protobuf(
            self._client.PullObject, self._node, message.metadata.run_id
        )
        contents = pull_objects([each.object_id for each in iterate_object_tree(tree)], pull)
        whole = inflate_object_from_contents(tree.object_id, contents)
        return whole.content if isinstance(whole, FlowerMessage) else RecordDict()

    def confirm(self, message: FlowerMessage) -> None:
        """The message was received; it will not come again."""
        make_confirm_message_received_fn_protobuf(
            self._client.ConfirmMessageReceived, self._node, message.metadata.run_id
        )(message.metadata.message_id)

    def reply(self, task_id: bytes, arrays: Arrays, metrics: dict[str, int | float]) -> None:
        """Answer the message of a task with arrays and metrics, as the ClientApp of fedpoet does."""
        record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
        content = RecordDict({"arrays": record, "metrics": MetricRecord(dict(metrics))})
        self._push(self._asked(task_id), content=content)

    def refuse(self, task_id: bytes, reason: str) -> None:
        """Answer the message of a task with an error."""
        error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
        self._push(self._asked(task_id), error=error)

    def tell(self, query: FlowerMessage, standing: Mapping[str, int | float]) -> None:
        """Answer a query with how things stand, sealed."""
        content = RecordDict({"standing": MetricRecord(dict(standing))})
        self._push(query.metadata, content=content)

    def _asked(self, task_id: bytes) -> Metadata:
        """Which message a task came from."""
        kept = self._vault.get(ask.envelope_record(task_id.hex()))
        if kept is None:
            raise TurnedAway("the message of this task is gone from the vault")
        return message_from_proto(MessageProto.FromString(kept)).metadata

    def _push(self, asked: Metadata, **what: Any) -> None:
        reply = make_message(_reply_metadata(asked, self._node.node_id, self._now_s()), **what)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id  # there is no setter
            objects = get_all_nested_objects(reply)
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            pushed = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(bare)],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[0.0],
                )
            )
            push = make_push_object_fn_protobuf(
                self._client.PushObject, self._node, asked.run_id, pushed.session_id
            )
            for object_id in pushed.objects_to_push:
                push(object_id, objects[object_id].deflate())


def _reply_metadata(asked: Metadata, node_id: int, now_s: float) -> Metadata:
    return Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=now_s,
        ttl=max(1.0, asked.created_at + asked.ttl - now_s),
        message_type=asked.message_type,
    )
