//! Everything that would fail later, found before anything is spent.
use super::client::Clients;
use crate::plan::Plan;
use crate::provider::Finding;
use crate::release::Mirror;

pub(super) async fn preflight(_clients: &Clients, _plan: &Plan, _mirror: Option<&Mirror>) -> Vec<Finding> {
    Vec::new()
}
