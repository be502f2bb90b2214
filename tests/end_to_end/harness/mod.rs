//! Starting the VMM, giving it a guest, and looking at what came of it.
//!
//! | file | what |
//! |---|---|
//! | `vmm` | a run of `spapr-vmm`: its command line, its surroundings |
//! | `peer` | a run of QEMU, with the same guest |
//! | `front_end` | a run of `spapr-vmm-qemu`, which libvirt would start |
//! | `core_file` | a guest's dump |
//! | `monitor` | a client of its monitor |
//! | `libvirt` | libvirt and its domains |
//! | `running` | a run under way: its output so far, signals, its end |
//! | `typist` | a user at a guest's terminal |
//! | `finished` | what a run left: status, console, messages, statistics |
//! | `jobs` | what Linux guests are told to do |
//! | `host` | the host's devices, users, modules and pinned memory |
//! | `interface` | network interfaces of the host's, and whom guests find there |
//! | `wire` | a program with a network, which listens at a socket |
//! | `growth` | what a process and the host hold, and whether it is more than before |
//! | `kernel_log` | what the host's kernel complains of |
//! | `refusal` | making the kernel refuse calls of one kind |
//! | `faults` | answering single calls in the kernel's place |
//! | `swapped_call` | having a thread make another system call than it wanted to |
//! | `tce_calls` | a guest that makes the TCE calls it is told to |
//! | `tce_handlers` | the kernel's own count of TCE calls |
//! | `vulnerabilities` | what kernels say of attacks by speculation |

pub(crate) mod core_file;
pub(crate) mod documents;
pub(crate) mod faults;
pub(crate) mod finished;
pub(crate) mod front_end;
pub(crate) mod frozen;
pub(crate) mod growth;
pub(crate) mod host;
pub(crate) mod interface;
pub(crate) mod interrupts;
pub(crate) mod jobs;
pub(crate) mod kernel_log;
pub(crate) mod libvirt;
pub(crate) mod monitor;
pub(crate) mod packing;
pub(crate) mod peer;
pub(crate) mod qcow2;
pub(crate) mod refusal;
pub(crate) mod registers;
pub(crate) mod running;
pub(crate) mod scratch;
pub(crate) mod small_folder;
pub(crate) mod swapped_call;
pub(crate) mod tce_calls;
pub(crate) mod tce_handlers;
pub(crate) mod typist;
pub(crate) mod vmm;
pub(crate) mod vulnerabilities;
pub(crate) mod wire;
pub(crate) mod written_sequence;

pub(crate) use vmm::Vmm;
