"""The devices of a site as its topics show them: last readings, firmware, twin, last command. docs/devices.md is the guide."""
