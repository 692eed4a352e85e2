//! Removing what a run made.
use super::client::Clients;
use crate::error::{Error, Result};
use crate::provider::Resource;

pub(super) async fn remove(_clients: &Clients, _resource: &Resource) -> Result<()> {
    Err(Error::host("not written yet"))
}
