//! Starting the instance.
use super::Aws;
use crate::bake::Undo;
use crate::error::{Error, Result};
use crate::provider::{Launch, Machine};

pub(super) async fn launch(_aws: &Aws, _launch: Launch<'_>, _undo: &Undo) -> Result<Box<dyn Machine>> {
    Err(Error::host("not written yet"))
}
