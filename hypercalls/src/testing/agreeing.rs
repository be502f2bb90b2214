//! A host that agrees to everything and does nothing, to measure the engine alone on.

use std::hint::black_box;

use crate::address::{Ioba, Liobn, PageShift};
use crate::sync::AtomicU64;
use crate::tce::Permission;
use crate::world::{BindRefusal, Geometry, HostError, HostIommu, HostRange, KernelTable};

/// The host. It binds no table, so that all calls are the engine's.
#[derive(Debug)]
pub struct AgreeingHost;

/// The table that is never made.
#[derive(Debug)]
pub struct NoTable;

impl KernelTable for NoTable {
    fn entries(&self) -> &[AtomicU64] {
        &[]
    }
}

impl HostIommu for AgreeingHost {
    type KernelTable = NoTable;

    fn create_window(&self, _: PageShift, _: u64, place: Option<Ioba>) -> Result<Ioba, HostError> {
        Ok(place.unwrap_or(Ioba(0)))
    }

    fn remove_window(&self, _: Ioba) -> Result<(), HostError> {
        Ok(())
    }

    fn never_binds(&self) -> Option<BindRefusal> {
        Some(BindRefusal::NotAsked)
    }

    fn bind_kernel_table(&self, _: Liobn, _: Geometry) -> Result<NoTable, BindRefusal> {
        Err(BindRefusal::NotAsked)
    }

    fn registers_memory(&self) -> bool {
        true
    }

    fn register_memory(&self, _: HostRange) -> Result<(), HostError> {
        Ok(())
    }

    fn unregister_memory(&self, _: HostRange) -> Result<(), HostError> {
        Ok(())
    }

    fn holds_on_to(&self, _: HostRange) -> bool {
        false
    }

    fn settle(&self, _: HostRange) {}

    fn map(&self, ioba: Ioba, host: HostRange, permission: Permission) -> Result<(), HostError> {
        // What is passed has to be worked out.
        black_box((ioba, host, permission));
        Ok(())
    }

    fn unmap(&self, ioba: Ioba, bytes: u64) -> Result<(), HostError> {
        black_box((ioba, bytes));
        Ok(())
    }
}
