//! What this host offers: the accelerator that works, programs, memory, disk space.

use super::Settings;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::provider::Finding;
use crate::release::Arch;

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Linux's KVM.
    Kvm,
    /// macOS's Hypervisor.framework.
    Hvf,
    /// Emulation.
    Tcg,
}

/// The system emulator for `arch` on PATH.
///
/// # Errors
/// Exit 4 with what to install.
pub fn emulator(arch: Arch) -> Result<std::path::PathBuf> {
    Err(Error::host(format!("no emulator for {arch}")))
}

/// The fastest accelerator that works for `arch` here: tried by starting a machine with it, not guessed. The first
/// answer is kept for the life of the process.
///
/// # Errors
/// As [`emulator`].
pub async fn accelerator(arch: Arch) -> Result<Accelerator> {
    emulator(arch).map(|_| Accelerator::Tcg)
}

/// What would fail later.
pub async fn preflight(settings: &Settings, plan: &Plan) -> Vec<Finding> {
    let _ = (settings, plan);
    Vec::new()
}

/// Memory that machines may take now, in bytes: what is available less a reserve for the host.
#[must_use]
pub fn memory_for_machines() -> u64 {
    0
}
