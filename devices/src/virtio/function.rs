//! A virtio device as the back end of a PCI function.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::Device;
use super::layout::{self, BAR_BYTES, ConfigSpace, MOST_VECTORS, Place};
use super::msi_x::MsiX;
use super::registers::{Event, Registers};
use super::shared::{Shared, State};
use super::worker::Worker;
use crate::dma::DmaMemory;
use crate::interrupts::Signal;
use crate::pci::{Bar, BarSpace, Doorbell, FunctionBackend, InterruptKind, VectorsEnabled};

/// How a virtio device is part of a machine.
pub struct VirtioOptions {
    /// How messages name it, such as the ID that its user gave it.
    pub name: String,
    /// Whether its driver gives it bus addresses (`iommu_platform`), as `memory` takes them.
    pub by_bus_address: bool,
    /// Guest memory.
    pub memory: DmaMemory,
    /// What the device's thread does first: it gives up what it will not need.
    pub prepare_thread: fn() -> io::Result<()>,
}

/// A virtio device behind a PCI host bridge.
pub struct VirtioFunction {
    shared: Arc<Shared>,
    /// The thread that serves the queues; none where a fuzzer does, in an order of its own.
    worker: Option<Worker>,
}

impl VirtioFunction {
    /// The function of `device`, whose thread begins.
    ///
    /// # Errors
    /// When there are no descriptors left for doorbells, or no thread.
    pub fn new(device: Box<dyn Device>, options: VirtioOptions) -> io::Result<Self> {
        let prepare_thread = options.prepare_thread;
        let mut function = Self::without_thread(device, options)?;
        let worker = Worker::start(Arc::clone(&function.shared), prepare_thread)?;
        function.worker = Some(worker);
        Ok(function)
    }

    /// The same, of which nobody serves the queues.
    pub(super) fn without_thread(
        mut device: Box<dyn Device>,
        options: VirtioOptions,
    ) -> io::Result<Self> {
        let VirtioOptions {
            name,
            by_bus_address,
            memory,
            ..
        } = options;
        let (identity, sizes) = (device.identity(), device.queue_sizes());
        let queues = u16::try_from(sizes.len()).unwrap_or(u16::MAX);
        // One for each queue, and one for changes of configuration.
        let vectors = (sizes.len() as u64 + 1).min(MOST_VECTORS);
        let vectors = u16::try_from(vectors).unwrap_or(u16::MAX);
        let doorbells = sizes
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new))
            .collect::<io::Result<_>>()?;
        let registers = Registers::new(device.features(), sizes, vectors, by_bus_address);
        let host_event = device.host_event();
        let watched = device.watched();
        let vhost = device.vhost_queues().map(|it| (it.count(), it.events()));
        let (vhost_queues, vhost_events) = vhost.unwrap_or_default();
        let state = State {
            config: ConfigSpace::new(identity, vectors, queues),
            registers,
            device,
            held: false,
            dead: false,
            changes: 0,
            settled: 0,
        };
        let shared = Arc::new(Shared {
            name,
            identity,
            memory,
            doorbells,
            host_event,
            watched,
            vhost_queues,
            vhost_events,
            state: Mutex::new(state),
            idle: Condvar::new(),
            msi_x: Mutex::new(MsiX::new(vectors.into())),
        });
        Ok(Self {
            worker: None,
            shared,
        })
    }

    /// What processors and the device's thread share.
    #[cfg(feature = "fuzz")]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Has what has changed be so for a vhost back end, too, if one serves queues.
    fn settle(&self) {
        self.shared.settle(&mut self.shared.state());
    }

    fn read_place(&self, place: Place, data: &mut [u8]) {
        let shared = &self.shared;
        match place {
            Place::Common(offset) => shared.state().registers.read(offset, data),
            Place::Device(offset) => shared.state().device.read_config(offset, data),
            Place::MsiXTable(offset) => shared.msi_x.lock().read_table(offset, data),
            Place::MsiXPending(offset) => shared.msi_x.lock().read_pending(offset, data),
            Place::Isr | Place::Doorbell(_) | Place::Nowhere => data.fill(0),
        }
    }

    fn write_place(&self, place: Place, data: &[u8]) {
        let shared = &self.shared;
        match place {
            Place::Common(offset) => {
                if shared.write_registers(offset, data) == Event::DriverOk {
                    shared.begin();
                }
            }
            Place::Device(offset) => shared.state().device.write_config(offset, data),
            Place::MsiXTable(offset) => {
                shared.msi_x.lock().write_table(offset, data);
                self.settle();
            }
            Place::Doorbell(queue) => shared.ring(queue),
            Place::Isr | Place::MsiXPending(_) | Place::Nowhere => {}
        }
    }
}

impl FunctionBackend for VirtioFunction {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn location_code(&self) -> String {
        format!("qemu_{}:{}", self.shared.identity.name, self.name())
    }

    fn config_bytes(&self) -> u16 {
        layout::CONFIG_BYTES
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        let access = {
            let state = self.shared.state();
            state.config.read(offset, data);
            state.config.window_access(offset)
        };
        if let Some(access) = access
            && let Some(data) = data.get_mut(..access.bytes)
        {
            self.read_place(Place::at(access.offset), data);
        }
        Ok(())
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        let access = {
            let mut state = self.shared.state();
            state.config.write(offset, data);
            if state.config.is_master() {
                self.shared.ring_unheard(&mut state);
            }
            self.shared.settle(&mut state);
            state.config.window_access(offset)
        };
        if let Some(access) = access
            && let Some(data) = data.get(..access.bytes)
        {
            self.write_place(Place::at(access.offset), data);
        }
        Ok(())
    }

    fn bar(&self, index: usize) -> Option<Bar> {
        let doorbells = (0..).zip(&self.shared.doorbells);
        (index == 0).then(|| Bar {
            bytes: BAR_BYTES,
            space: BarSpace::Memory64,
            prefetchable: false,
            host_address: None,
            mappings: Vec::new(),
            doorbells: doorbells
                .map(|(queue, event)| Doorbell {
                    offset: layout::doorbell(queue),
                    event: Arc::clone(event),
                })
                .collect(),
        })
    }

    fn read_bar(&self, _index: usize, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.read_place(Place::at(offset), data);
        Ok(())
    }

    fn write_bar(&self, _index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_place(Place::at(offset), data);
        Ok(())
    }

    fn interrupt_vectors(&self, kind: InterruptKind) -> u32 {
        match kind {
            InterruptKind::Msi => 0,
            InterruptKind::MsiX => u32::try_from(self.shared.msi_x.lock().vectors()).unwrap_or(0),
        }
    }

    fn set_interrupts(
        &self,
        _kind: InterruptKind,
        signals: &[Signal],
    ) -> io::Result<VectorsEnabled> {
        self.shared.msi_x.lock().connect(signals.to_vec());
        self.settle();
        Ok(VectorsEnabled::All)
    }

    fn disable_interrupts(&self, _kind: InterruptKind) -> io::Result<()> {
        self.shared.msi_x.lock().connect(Vec::new());
        // A vhost back end has what they signalled until then.
        self.settle();
        Ok(())
    }

    fn hold(&self, held: bool) {
        let mut state = self.shared.state();
        state.held = held;
        if held {
            state.device.stay();
            self.shared.wait_until_idle(&mut state);
        } else {
            state.device.go_on();
            self.shared.ring_unheard(&mut state);
        }
        self.shared.settle(&mut state);
    }

    fn has_line(&self) -> bool {
        false
    }

    fn connect_line(&self, _event: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unmask_line(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn disconnect_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        if self.shared.vhost_queues == 0 {
            state.registers.begin_reset();
            self.shared.wait_until_idle(&mut state);
            state.reset();
        } else {
            self.shared.reset_behind_vhost(&mut state);
        }
        state.config.reset();
        {
            let mut msi_x = self.shared.msi_x.lock();
            *msi_x = MsiX::new(msi_x.vectors());
        }
        self.shared.settle(&mut state);
        Ok(())
    }
}
