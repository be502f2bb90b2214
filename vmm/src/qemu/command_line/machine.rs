//! Options that make the machine.

use std::path::PathBuf;

use spapr_devices::vfio::IommuPolicy;
use spapr_hypercalls::policy::{LockPolicy, TcePolicy};
use time::{Date, Month, OffsetDateTime, Time};
use uuid::Uuid;

use super::device::{Device, DeviceKind};
use super::memory::MemoryOptions;
use super::pci::{self, BackEnds};
use super::properties::Properties;
use super::{CommandLineError, absolute, filesystem};
use crate::spec::speculation::Wanted;
use crate::spec::{
    DdwMode, DmaWindowSize, DmaWindowSizes, InterruptControllerMode, LockRegion,
    MachineDescription, ProcessorModel, choice,
};

/// Names of the machine. There is one; that of each of QEMU's versions is taken for it, so that a
/// domain that was defined for QEMU keeps its description.
pub const MACHINES: &[&str] = &[
    "pseries",
    "pseries-10.0",
    "pseries-9.2",
    "pseries-9.1",
    "pseries-9.0",
    "pseries-8.2",
    "pseries-8.1",
    "pseries-8.0",
    "pseries-7.2",
    "pseries-7.1",
    "pseries-7.0",
    "pseries-6.2",
];

/// What the options said of the machine.
#[derive(Debug)]
pub(super) struct MachineOptions {
    kind: Option<String>,
    memory_backend: Option<String>,
    kvm: bool,
    processor: Option<ProcessorModel>,
    cpus: u32,
    threads_per_core: u32,
    /// Threads for which a core has numbers (`vsmt`).
    threads_per_virtual_core: Option<u32>,
    uuid: Option<Uuid>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    command_line: String,
    clock_offset_seconds: i64,
    tce: TcePolicy,
    lock: LockPolicy,
    lock_region: Option<LockRegion>,
    iommu: IommuPolicy,
    ddw: DdwMode,
    /// The default DMA window of host bridges of which nothing else is said.
    dma_window: Option<DmaWindowSize>,
    interrupt_controller: InterruptControllerMode,
    speculation: Wanted,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            kind: None,
            memory_backend: None,
            kvm: false,
            processor: None,
            cpus: 1,
            threads_per_core: 1,
            threads_per_virtual_core: None,
            uuid: None,
            kernel: None,
            initrd: None,
            command_line: String::new(),
            clock_offset_seconds: 0,
            tce: TcePolicy::Auto,
            lock: LockPolicy::FirstMap,
            lock_region: None,
            iommu: IommuPolicy::Auto,
            ddw: DdwMode::Auto,
            dma_window: None,
            interrupt_controller: InterruptControllerMode::Auto,
            speculation: Wanted::default(),
        }
    }
}

impl MachineOptions {
    /// Reads one option; false when it is none of these.
    pub(super) fn read(
        &mut self,
        option: &'static str,
        value: &str,
    ) -> Result<bool, CommandLineError> {
        match option {
            "M" | "machine" => self.read_machine(value)?,
            "accel" => {
                let mut properties = Properties::parse("-accel", Some("accel"), value)?;
                let name = properties.required("accel")?;
                self.set_accelerators("-accel", &name)?;
                kernel_irqchip(&mut properties)?;
                properties.finish()?;
            }
            "enable-kvm" => self.kvm = true,
            "cpu" => self.read_processor(value)?,
            "smp" => self.read_topology(value)?,
            "uuid" => {
                let uuid = value.parse().map_err(|_| {
                    CommandLineError::Combination(format!("-uuid {value} is no UUID"))
                })?;
                self.uuid = Some(uuid);
            }
            "kernel" => self.kernel = Some(absolute("-kernel", value)?),
            "initrd" => self.initrd = Some(absolute("-initrd", value)?),
            "append" => value.clone_into(&mut self.command_line),
            "rtc" => self.read_clock(value)?,
            // How it logs and counts is read by `process`.
            "spapr-vmm" => {
                self.read_own(value)?;
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sets the default DMA window of host bridges of which nothing else is said.
    pub(super) const fn set_dma_window(&mut self, size: DmaWindowSize) {
        self.dma_window = Some(size);
    }

    fn read_machine(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-machine", Some("type"), value)?.dashed();
        if let Some(kind) = properties.text("type")? {
            if kind != "none" && !MACHINES.contains(&kind.as_str()) {
                return Err(CommandLineError::Kind {
                    option: "-machine",
                    name: kind,
                    supported: format!("none, {}", MACHINES.join(", ")),
                });
            }
            self.kind = Some(kind);
        }
        if let Some(names) = properties.text("accel")? {
            self.set_accelerators("-machine accel", &names)?;
        }
        if let Some(backend) = properties.text("memory-backend")? {
            self.memory_backend = Some(backend);
        }
        properties.always("usb", false)?;
        properties.always("graphics", false)?;
        // A core file never holds guest memory.
        properties.always("dump-guest-core", false)?;
        // Memory is never merged.
        properties.either("mem-merge")?;
        self.threads_per_virtual_core = properties.number32("vsmt")?;
        if let Some(mode) = properties.text("ic-mode")? {
            self.interrupt_controller = match mode.as_str() {
                "xics" => InterruptControllerMode::Xics,
                // With `dual`, QEMU lets the guest choose between the two; here it gets the better one. A domain
                // that asks for XIVE starts where there is none, too: in an LPAR, or on a host with small pages.
                "dual" | "xive" => InterruptControllerMode::Auto,
                _ => return Err(properties.wrong("ic-mode", &mode, "dual, xive or xics")),
            };
        }
        kernel_irqchip(&mut properties)?;
        if let Some(kind) = properties.text("kvm-type")?
            && kind != "auto"
            && !kind.eq_ignore_ascii_case("hv")
        {
            let expected = "HV: guests run in hypervisor mode alone";
            return Err(properties.wrong("kvm-type", &kind, expected));
        }
        properties.only("resize-hpt", &["disabled"])?;
        properties.always("cap-htm", false)?;
        properties.always("cap-nested-hv", false)?;
        properties.always("cap-large-decr", true)?;
        self.read_speculation(&mut properties)?;
        properties.finish()
    }

    /// What the guest is to be told of attacks by speculation; whether KVM promises it is seen when
    /// the machine is made.
    fn read_speculation(&mut self, properties: &mut Properties) -> Result<(), CommandLineError> {
        let wanted = &mut self.speculation;
        if let Some(safety) = properties.one_of("cap-cfpc", &choice::SAFETY)? {
            wanted.cache = Some(safety);
        }
        if let Some(safety) = properties.one_of("cap-sbbc", &choice::SAFETY)? {
            wanted.bounds_checks = Some(safety);
        }
        if let Some(safety) = properties.one_of("cap-ibs", &choice::BRANCH_SAFETY)? {
            wanted.branches = Some(safety);
        }
        if let Some(on) = properties.switch("cap-ccf-assist")? {
            wanted.flush_assist = Some(on);
        }
        Ok(())
    }

    /// Names with colons between, the one to prefer first. There is one only; TCG is no more than
    /// a second choice.
    fn set_accelerators(
        &mut self,
        option: &'static str,
        names: &str,
    ) -> Result<(), CommandLineError> {
        if names.split(':').any(|name| name == "kvm") {
            self.kvm = true;
            return Ok(());
        }
        Err(CommandLineError::Kind {
            option,
            name: names.to_owned(),
            supported: "kvm (guests are never emulated; in a libvirt domain: <domain type='kvm'>)"
                .to_owned(),
        })
    }

    fn read_processor(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-cpu", Some("model"), value)?;
        let model = properties.required("model")?;
        self.processor = match model.to_ascii_uppercase().as_str() {
            "HOST" => None,
            "POWER9" => Some(ProcessorModel::Power9),
            "POWER10" => Some(ProcessorModel::Power10),
            "POWER11" => Some(ProcessorModel::Power11),
            _ => return Err(properties.wrong("model", &model, "host, POWER9, POWER10 or POWER11")),
        };
        properties.finish()
    }

    fn read_topology(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-smp", Some("cpus"), value)?;
        let cpus = properties.number32("cpus")?;
        let sockets = properties.number32("sockets")?;
        let cores = properties.number32("cores")?;
        let threads = properties.number32("threads")?.unwrap_or(1);
        for one in ["dies", "clusters", "modules", "books", "drawers"] {
            properties.only(one, &["1"])?;
        }
        for (name, count) in [("sockets", sockets), ("cores", cores)] {
            if count == Some(0) {
                return Err(properties.wrong(name, &0, "1 or more"));
            }
        }
        let places = [sockets.unwrap_or(1), cores.unwrap_or(1), threads]
            .into_iter()
            .try_fold(1, u32::checked_mul);
        let places = places.unwrap_or(u32::MAX);
        let cpus = cpus.unwrap_or(places);
        if !matches!(threads, 1 | 2 | 4 | 8) {
            return Err(properties.wrong("threads", &threads, "1, 2, 4 or 8"));
        }
        if !(1..=1024).contains(&cpus) {
            return Err(properties.wrong("cpus", &cpus, "1 to 1024"));
        }
        if sockets.is_some() && cores.is_some() && places != cpus {
            return Err(CommandLineError::Combination(format!(
                "-smp {value}: {places} places for {cpus} processors; processors cannot be added later (in a libvirt \
                 domain: <vcpu> without current=)"
            )));
        }
        if cpus % places != 0 {
            return Err(CommandLineError::Combination(format!(
                "-smp {value}: groups of {places} do not make up {cpus} processors"
            )));
        }
        let most = properties.number32("maxcpus")?.unwrap_or(cpus);
        if most != cpus {
            return Err(properties.wrong(
                "maxcpus",
                &most,
                "the number of cpus: none can be added",
            ));
        }
        if cpus % threads != 0 {
            return Err(properties.wrong("threads", &threads, "a divisor of cpus"));
        }
        self.cpus = cpus;
        self.threads_per_core = threads;
        properties.finish()
    }

    fn read_clock(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-rtc", Some("base"), value)?;
        properties.only("clock", &["host"])?;
        properties.only("driftfix", &["none"])?;
        if let Some(base) = properties.text("base")?
            && base != "utc"
        {
            let start = parse_date(&base)
                .ok_or_else(|| properties.wrong("base", &base, "utc or YYYY-MM-DDTHH:MM:SS"))?;
            let offset = start - OffsetDateTime::now_utc();
            self.clock_offset_seconds = offset.whole_seconds();
        }
        properties.finish()
    }

    fn read_own(&mut self, value: &str) -> Result<(), CommandLineError> {
        let mut properties = Properties::parse("-spapr-vmm", None, value)?;
        if let Some(mode) = properties.one_of("tce", &choice::TCE)? {
            self.tce = mode;
        }
        if let Some(mode) = properties.one_of("lock", &choice::LOCK)? {
            self.lock = mode;
        }
        if let Some(text) = properties.text("lock-region")? {
            let region = text.parse::<LockRegion>();
            let region = region.map_err(|why| properties.bad("lock-region", &text, why))?;
            self.lock_region = Some(region);
        }
        if let Some(mode) = properties.one_of("iommu", &choice::IOMMU)? {
            self.iommu = mode;
        }
        if let Some(text) = properties.text("ddw")? {
            let mode = text.parse::<DdwMode>();
            self.ddw = mode.map_err(|why| properties.bad("ddw", &text, why))?;
        }
        // Read again, and used, by `process`.
        let _level = properties.one_of("log", &choice::LOG)?;
        properties.ignore(&["stats"]);
        properties.finish()
    }

    /// The machine, with memory and devices; `None` for `-machine none`.
    pub(super) fn finish(
        self,
        memory: &MemoryOptions,
        devices: &[Device],
        back_ends: BackEnds<'_>,
    ) -> Result<Option<MachineDescription>, CommandLineError> {
        if self.kind.as_deref() == Some("none") {
            return Ok(None);
        }
        let missing = |text: &str| CommandLineError::Combination(text.to_owned());
        if !self.kvm {
            return Err(missing(
                "no -accel kvm: guests are run by KVM and never emulated",
            ));
        }
        let kernel = self.kernel.ok_or_else(|| {
            missing(
                "no -kernel: a guest starts from a kernel (<kernel> below <os> in a libvirt domain)",
            )
        })?;
        if let Some(threads) = self.threads_per_virtual_core
            && threads != self.threads_per_core
        {
            return Err(CommandLineError::Combination(format!(
                "-machine vsmt={threads}: a core has as many numbers as threads, and -smp says threads={}",
                self.threads_per_core
            )));
        }
        let backend = self.memory_backend.as_deref();
        let memory = memory.of_machine(backend)?;
        filesystem::check_memory(devices, memory.is_shared)?;
        let vty = devices.iter().find_map(|device| match device.kind {
            DeviceKind::Vty { reg, .. } => Some(reg),
            _ => None,
        });
        let (vfio, virtual_devices) = pci::devices(devices, back_ends)?;
        Ok(Some(MachineDescription {
            kernel,
            initrd: self.initrd,
            command_line: self.command_line,
            memory: memory.size,
            cpus: self.cpus,
            threads_per_core: self.threads_per_core,
            processor: self.processor,
            speculation: self.speculation,
            vfio,
            virtual_devices,
            tce: self.tce,
            lock: self.lock,
            lock_region: self.lock_region.map(|region| region.0),
            iommu: self.iommu,
            ddw: self.ddw,
            dma_windows: DmaWindowSizes {
                of_all: self.dma_window,
                of_bridges: pci::dma_windows(devices),
            },
            interrupt_controller: self.interrupt_controller,
            hugepages: memory.hugepages,
            vty: vty.unwrap_or(spapr_devices::vty::DEFAULT_UNIT_ADDRESS),
            uuid: self.uuid,
            clock_offset_seconds: self.clock_offset_seconds,
        }))
    }
}

/// Where interrupts are delivered: QEMU's pseries takes `on`, `off` for its own controller in user space, and
/// not `split`.
fn kernel_irqchip(properties: &mut Properties) -> Result<(), CommandLineError> {
    let name = "kernel-irqchip";
    match properties.text(name)?.as_deref() {
        None | Some("on") => Ok(()),
        Some(other) => {
            let expected = "on: interrupts come from KVM's controller, and there is no other";
            Err(properties.wrong(name, &other, expected))
        }
    }
}

/// `YYYY-MM-DDTHH:MM:SS` or `YYYY-MM-DD`, in UTC.
fn parse_date(text: &str) -> Option<OffsetDateTime> {
    let (date, time) = text.split_once('T').unwrap_or((text, "0:0:0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let byte = |number: u64| u8::try_from(number).ok();
    let month = Month::try_from(byte(month)?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, byte(day)?).ok()?;
    let time = Time::from_hms(byte(hour)?, byte(minute)?, byte(second)?).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

fn numbers(text: &str, between: char) -> Option<[u64; 3]> {
    let parts: Vec<u64> = text
        .split(between)
        // Never octal, whatever zeroes they begin with.
        .map(|part| part.parse().ok().filter(|_| !part.starts_with('+')))
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_whole_or_not_at_all() {
        let date = parse_date("2026-11-22T18:03:59").expect("a date");
        assert_eq!((date.year(), date.hour(), date.second()), (2026, 18, 59));
        let date = parse_date("2026-08-09T08:09:08").expect("a date");
        assert_eq!((date.day(), date.hour(), date.second()), (9, 8, 8));
        for bad in [
            "",
            "+2026-08-09",
            "2026",
            "2026-13-01",
            "2026-01-01T25:00:00",
            "2026-01-01-01",
            "utc",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }
}
