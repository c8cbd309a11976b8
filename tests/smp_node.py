"""A node's SMP server in a few lines, for the gateway's tests: two slots, no flash, and every fault that a test asks for."""

import cbor2
from smp import header as smp

from gatewayd.core import image
from gatewayd.core.types import Info, Limits, Slot, SlotState

OLD = b"o" * 32
CAPACITY = 65_536
_IMAGE = smp.GroupId.IMAGE_MANAGEMENT
OPERATORS = b"\xff" * 32


def answer(request, fields):
    """The frame that answers `request` (its header)."""
    body = cbor2.dumps(fields)
    return (
        smp.Header(
            op=smp.OP(request.op + 1),
            version=request.version,
            flags=smp.Flag(0),
            length=len(body),
            group_id=request.group_id,
            sequence=request.sequence,
            command_id=request.command_id,
        ).BYTES
        + body
    )


class SmpNode:
    """`asked` lists what it was asked to do, (verb, what came of it); `repeated` counts what it had done already."""

    def __init__(self, cascade="vibration", previous=OLD, buffer_bytes=1_024, buffers=1):
        self.cascade, self.previous, self.buffer_bytes, self.buffers = cascade, previous, buffer_bytes, buffers
        self.data, self.size, self.upload_sha = b"", 0, b""
        self.sha256, self.state, self.rejected = b"", SlotState.EMPTY, None
        self.confirmed = previous
        self.asked, self.repeated = [], 0
        self.refuses = {}  # verb -> image group rc
        self.silent = set()  # verbs that are not answered
        self.verdict = None  # why a whole image is rejected

    def info(self, session=1):
        """What it says of itself."""
        old = Slot(
            1,
            0,
            SlotState.CONFIRMED if self.confirmed == self.previous else SlotState.VERIFIED,
            CAPACITY,
            self.cascade,
            self.previous,
            "1.0.0",
            1,
            10,
        )
        own = None if self.state is SlotState.EMPTY else self.upload_sha if self.state is SlotState.RECEIVING else self.sha256
        new = Slot(
            1, 1, self.state, CAPACITY, self.cascade if own else None, own, "2.0.0" if own else None, 1, len(self.data), self.rejected
        )
        limits = Limits(tensors=1_024, operators=1_024, rank=6, work=1 << 28, plan_version=1)
        return Info(session, "host", "board", "1.0", "power-on", OPERATORS, 1 << 20, ("audio", "vibration"), 60, (old, new), limits)

    def handle(self, frame):
        """The answer to a request, or None."""
        header = smp.Header.loads(frame[:8])
        fields = cbor2.loads(frame[8:])
        if header.group_id != _IMAGE:
            return answer(header, {"buf_size": self.buffer_bytes, "buf_count": self.buffers})
        verb, said = self._image(header, fields)
        if verb in self.silent:
            return None
        return answer(header, {"err": {"group": 1, "rc": self.refuses[verb]}} if verb in self.refuses else said)

    def _image(self, header, fields):
        write = header.op == smp.OP.WRITE
        if header.command_id == smp.CommandId.ImageManagement.UPLOAD:
            return "upload", self._upload(fields)
        if header.command_id == smp.CommandId.ImageManagement.ERASE:
            self._ask("erase")
            if "erase" not in self.refuses:
                self.state, self.data = SlotState.EMPTY, b""
            return "erase", {}
        if write:
            verb = "confirm" if fields.get("confirm") else "test"
            if verb not in self.refuses:
                self._write(verb, fields.get("hash"))
            return verb, self._states()
        return "states", self._states()

    def _ask(self, verb):
        self.asked.append(verb)

    def _upload(self, fields):
        first = fields["off"] == 0 and "len" in fields and "upload" not in self.refuses
        other = (fields.get("sha"), fields.get("len")) != (self.upload_sha, self.size)
        if first and (other or self.state in (SlotState.EMPTY, SlotState.REJECTED)):
            self._ask("upload")
            self.data, self.size, self.upload_sha = b"", fields["len"], fields["sha"]
            self.state, self.rejected = SlotState.RECEIVING, None
        if self.state is SlotState.RECEIVING and fields["off"] == len(self.data):
            self.data += fields["data"]
            if len(self.data) == self.size:
                self._verify()
                if self.verdict:
                    self.refuses["upload"] = 24
        return {"off": len(self.data)}

    def _verify(self):
        self.sha256 = image.parse(self.data).sha256
        self.state, self.rejected = (SlotState.REJECTED, self.verdict) if self.verdict else (SlotState.VERIFIED, None)

    def _write(self, verb, sha256):
        self._ask(verb)
        if verb == "test":
            self.repeated += self.state is not SlotState.VERIFIED
            self.state = SlotState.TEST
        elif sha256 == self.previous:
            self.repeated += self.confirmed == self.previous and self.state is not SlotState.TEST
            self.confirmed = self.previous
            self.state, self.rejected = SlotState.REJECTED, "reverted"
        else:
            self.repeated += self.confirmed == sha256
            self.confirmed, self.state = sha256, SlotState.CONFIRMED

    def _states(self):
        on_trial = self.state is SlotState.TEST
        slots = [
            {
                "image": 1,
                "slot": 0,
                "version": "1.0.0",
                "hash": self.previous,
                "confirmed": self.confirmed == self.previous,
                "active": self.confirmed == self.previous and not on_trial,
            }
        ]
        if self.state in (SlotState.VERIFIED, SlotState.TEST, SlotState.CONFIRMED):
            confirmed = self.state is SlotState.CONFIRMED
            slots.append(
                {"image": 1, "slot": 1, "version": "2.0.0", "hash": self.sha256, "confirmed": confirmed, "active": on_trial or confirmed}
            )
        return {"images": slots}

    def reset(self):
        """Lose power: a trial is over."""
        if self.state is SlotState.TEST:
            self.state, self.rejected = SlotState.REJECTED, "reset"
