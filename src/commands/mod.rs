//! One file a command: wiring only. What is decided is decided in `plan`; what is done is done in `bake`, `release` and the
//! providers; what is printed is printed by `report`.

pub(crate) mod base;
pub(crate) mod build;
pub(crate) mod certs;
pub(crate) mod check;
pub(crate) mod distribute;
pub(crate) mod doctor;
pub(crate) mod fetch;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod pipeline;
pub(crate) mod plan;
mod prepare;
pub(crate) mod promote;
pub(crate) mod prune;
pub(crate) mod releases;
pub(crate) mod render;
mod signals;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod verify;
pub(crate) mod verify_release;

use std::future::Future;

use crate::error::{Context as _, Result};

/// Runs a command's future.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.or_host(|| "cannot start the runtime".to_owned())?.block_on(future)
}
