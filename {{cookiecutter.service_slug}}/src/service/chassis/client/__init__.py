"""Calls to other services, within limits that keep their failures from being this one's."""
