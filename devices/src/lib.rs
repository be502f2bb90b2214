//! Devices of a pseries machine.
