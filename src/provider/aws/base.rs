//! What a recipe starts from on AWS, resolved to an AMI's id.
use super::client::Clients;
use crate::error::{Error, Result};
use crate::plan::BaseImage;
use crate::recipe::Recipe;
use crate::release::Arch;

pub(super) async fn resolve(_clients: &Clients, _recipe: &Recipe, _arch: Arch) -> Result<BaseImage> {
    Err(Error::host("not written yet"))
}
