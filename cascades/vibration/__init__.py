"""The vibration cascade: a node that knows its healthy motor, a gateway that names the fault."""
