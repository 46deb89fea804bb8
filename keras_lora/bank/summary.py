"""What a bank holds and costs, as a table."""

from dataclasses import dataclass
from typing import Any

from keras_lora.bank.adapter import BankAdapter
from keras_lora.bank.slots import Slots
from keras_lora.model.fingerprint import own_bytes, size_in_bytes
from keras_lora.model.paths import structural_paths
from keras_lora.rewrite.summary import aligned


@dataclass(frozen=True)
class BankRow:
    """One adapter of a bank.

    Attributes:
        name: Its name.
        method: The methods of its layers, such as `"lora"`.
        size: Largest rank or width.
        parameters: Values in its file.
        host_bytes: Bytes on the host.
        resident_bytes: Bytes of its slot, padding included; 0 where it sits
            in none.
        padding_bytes: How many of those are padding.
    """

    name: str
    method: str
    size: str
    parameters: int
    host_bytes: int
    resident_bytes: int
    padding_bytes: int


@dataclass(frozen=True)
class BankSummary:
    """A table of a bank's adapters; `print` it, or read its fields.

    Attributes:
        rows: One `BankRow` an adapter.
        base_bytes: Bytes of the base.
        slot_bytes: Bytes of all slots, empty ones included.
        bank_bytes: The base, the slots and the adapters on the host.
        copies_bytes: As many merged copies of the base as there are adapters.
    """

    rows: tuple[BankRow, ...]
    base_bytes: int
    slot_bytes: int
    bank_bytes: int
    copies_bytes: int

    def __str__(self) -> str:
        head = ("name", "method", "size", "parameters", "host", "in its slot")
        cells = [head] + [
            (
                row.name,
                row.method,
                row.size,
                f"{row.parameters:,}",
                megabytes(row.host_bytes),
                megabytes(row.resident_bytes) if row.resident_bytes else "-",
            )
            for row in self.rows
        ]
        lines = aligned(cells)
        lines.append(
            f"one base + {len(self.rows)} adapters: "
            f"{megabytes(self.bank_bytes)} (base {megabytes(self.base_bytes)}, "
            f"slots {megabytes(self.slot_bytes)}); "
            f"{len(self.rows)} merged copies: {megabytes(self.copies_bytes)}"
        )
        return "\n".join(lines)


def megabytes(count: float) -> str:
    """Bytes for people."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def summarize(
    base: Any, slots: Slots, adapters: list[BankAdapter]
) -> BankSummary:
    """Counts real sizes."""
    stacks = sum(
        size_in_bytes(host.adapter_weights.values())
        for host in slots.hosts.values()
    )
    each = stacks // slots.count
    rows = []
    for adapter in adapters:
        here = adapter in slots.resident
        rows.append(
            BankRow(
                adapter.name,
                ", ".join(adapter.info.methods),
                adapter.size,
                adapter.info.parameters,
                adapter.bytes,
                each if here else 0,
                each - adapter.resident_bytes if here else 0,
            )
        )
    plain = own_bytes(structural_paths(base).values())
    on_host = sum(adapter.bytes for adapter in adapters)
    heads = on_host - sum(adapter.resident_bytes for adapter in adapters)
    return BankSummary(
        tuple(rows),
        plain,
        stacks,
        plain + stacks + on_host,
        plain * len(adapters) + heads,
    )
