"""Pairing on Bumble's stack: LE Secure Connections only, in the order that the specification wants, and keys in a file."""

import contextlib
import json
import logging
import os
from typing import Any

from bumble import keys, pairing, smp

from gatewayd.core.pairing import Agent

_ROUNDS = 20  # bits of a passkey
_KEY_BYTES = 16
_log = logging.getLogger(__name__)


class Session(smp.Session):
    """Bumble takes what the peer says in any order and as often as it likes. So a peer could see our half of a passkey's bit before it
    commits itself to one, reflect our own key, choose a weaker method when the operator has answered, or encrypt before that.
    """

    _taken = 0
    _checked = False

    def on_smp_command(self, command: smp.SMP_Command) -> None:
        """Take what comes when it is its turn; the rest ends the pairing."""
        if self.completed:
            return
        if not isinstance(command, smp.SMP_Pairing_Failed_Command):
            if self.is_responder or not isinstance(command, self._next()) or not self._fit(command):
                self.send_pairing_failed(smp.ErrorCode.UNSPECIFIED_REASON)
                return
            self._taken += 1
        super().on_smp_command(command)

    def _next(self) -> type[smp.SMP_Command] | tuple[()]:
        rounds = _ROUNDS if self.pairing_method is smp.PairingMethod.PASSKEY else 1
        if self._taken < 2:  # noqa: PLR2004 -- these two
            return (smp.SMP_Pairing_Response_Command, smp.SMP_Pairing_Public_Key_Command)[self._taken]
        if self._taken < 2 + 2 * rounds:
            return (smp.SMP_Pairing_Confirm_Command, smp.SMP_Pairing_Random_Command)[self._taken % 2]
        return smp.SMP_Pairing_DHKey_Check_Command if self._taken == 2 + 2 * rounds and self._checked else ()

    def _fit(self, command: smp.SMP_Command) -> bool:
        if isinstance(command, smp.SMP_Pairing_Response_Command):
            secure = bool(command.auth_req & smp.AuthReq.SC) and not command.oob_data_flag
            return secure and command.maximum_encryption_key_size == _KEY_BYTES
        return not isinstance(command, smp.SMP_Pairing_Public_Key_Command) or command.public_key_x != self.ecc_key.x[::-1]

    def send_pairing_dhkey_check_command(self) -> None:
        """Say that all is well, from our side; only then the peer may."""
        self._checked = True
        super().send_pairing_dhkey_check_command()


class Delegate(pairing.PairingDelegate):
    """An Agent, as Bumble wants it. No identity keys: a node is known by the address that it advertises."""

    def __init__(self, agent: Agent) -> None:
        distributed = self.KeyDistribution.DISTRIBUTE_ENCRYPTION_KEY
        super().__init__(self.DISPLAY_OUTPUT_AND_KEYBOARD_INPUT, distributed, distributed)
        self._agent = agent

    async def compare_numbers(self, number: int, digits: int) -> bool:  # noqa: ARG002 -- always six
        """Ask whether the node shows the same."""
        return await self._agent.compare(number)

    async def get_number(self) -> int | None:
        """Ask what the node shows."""
        return await self._agent.passkey()

    async def confirm(self, auto: bool = False) -> bool:  # noqa: ARG002 -- of a pairing in which nobody looks
        """Ask whether that will do."""
        return self._agent.authorize()


class Bonds(keys.JsonKeyStore):
    """Keys by address, in a file for its owner's eyes only. One that cannot be read is as good as none."""

    async def load(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All, and those of our adapter."""
        try:
            return await super().load()
        except (OSError, ValueError) as error:
            _log.error("%s: %s", self.filename, error)
            ours: dict[str, Any] = {}
            return {self.namespace: ours}, ours

    async def save(self, db: dict[str, Any]) -> None:
        """Replace the file."""
        temporary = self.filename.with_name(f"{self.filename.name}.new")
        temporary.unlink(missing_ok=True)  # of a run that was killed
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(db, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.filename)

    async def delete(self, name: str) -> None:
        """Forget one, if it is known."""
        with contextlib.suppress(KeyError):
            await super().delete(name)
