//! Debian's libvirt, unmodified, with `spapr-vmm-qemu` as the emulator of a domain. These run on a
//! host that has libvirt.

mod agent;
mod client;
mod confinement;
mod disk;
mod documents;
mod domain;
mod entropy;
mod filesystem;
mod host_device;
mod limits;
mod long;
mod network;
mod probe;
mod refusals;
mod sandbox;
mod terminals;
mod vulnerabilities;
