//! Tarballs that bakes left in a bucket of the user's, found by their keys alone: `amibake/<run>/<sha256>.tar.gz`, as
//! `deliver` names them. What else is below `amibake/`, logs for one, is nobody's to remove here.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_s3::types::Object;
use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::client::Clients;
use super::error::AwsError;
use super::gc::{Found, Kind};
use crate::bake::RunId;
use crate::error::Result;
use crate::release::Sha256;

/// What every key of amibake's begins with.
pub(super) const PREFIX: &str = "amibake/";
/// After so long a tarball is nobody's. A machine fetches it at its start, by an address that is good for an hour; a day
/// leaves room for clocks that differ and machines that wait for capacity.
const NEEDED: Duration = Duration::from_secs(24 * 3600);

/// What is in `buckets`: of `run`, or of every run.
///
/// # Errors
/// Exit 4 when a bucket cannot be listed; one that is not there holds nothing.
pub(super) async fn find(clients: &Clients, buckets: &BTreeSet<String>, run: Option<&RunId>) -> Result<Vec<Found>> {
    let found = try_join_all(buckets.iter().map(|bucket| in_bucket(clients, bucket, run))).await?;
    Ok(found.concat())
}

async fn in_bucket(clients: &Clients, bucket: &str, run: Option<&RunId>) -> Result<Vec<Found>> {
    // Of one run only what is below its own name is listed.
    let prefix = run.map_or_else(|| PREFIX.to_owned(), |run| format!("{PREFIX}{run}/"));
    let mut pages = clients.s3.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        match page.map_err(AwsError::of("s3:ListBucket")) {
            Ok(page) => {
                let left = page.contents().iter().filter_map(|object| left(object, bucket, run, &clients.region));
                found.extend(left);
            }
            Err(error) if error.is(&["NoSuchBucket"]) => break,
            Err(error) => return Err(error.because(format!("cannot list what bakes left in s3://{bucket}"))),
        }
    }
    Ok(found)
}

/// What an object is, if it is a tarball.
fn left(object: &Object, bucket: &str, run: Option<&RunId>, region: &str) -> Option<Found> {
    let key = object.key()?;
    let of = run_of(key).filter(|of| run.is_none_or(|run| run == of))?;
    let expires = Timestamp::from_second(object.last_modified()?.secs()).ok()?.checked_add(NEEDED).ok()?;
    Some(Found {
        kind: Kind::Object,
        id: format!("s3://{bucket}/{key}"),
        region: region.to_owned(),
        run: of.0,
        recipe: None,
        expires: Some(expires),
        state: "exists".to_owned(),
    })
}

/// The run that a key names, if the key is that of a tarball.
fn run_of(key: &str) -> Option<RunId> {
    let (run, file) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let digest: Option<Sha256> = file.strip_suffix(".tar.gz").and_then(|digest| digest.parse().ok());
    (RunId::is_valid(run) && digest.is_some()).then(|| RunId(run.to_owned()))
}

/// Bucket and key of what [`find`] found.
pub(super) fn place(id: &str) -> Option<(&str, &str)> {
    id.strip_prefix("s3://")?.split_once('/')
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
    use aws_smithy_mocks::{Rule, mock};
    use aws_smithy_types::DateTime;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::provider::aws::gc::{LeftBehind, Runs};
    use crate::provider::aws::testing::mocked;

    const RUN: &str = "20261124t145112-3fa9c1";

    fn now() -> Timestamp {
        "2026-11-25T00:00:00Z".parse().unwrap()
    }

    fn key(run: &str) -> String {
        format!("amibake/{run}/{}.tar.gz", Sha256::of(b"buildkit"))
    }

    fn object(key: &str, hours: i64) -> Object {
        Object::builder().key(key).last_modified(DateTime::from_secs(now().as_second() - hours * 3600)).build()
    }

    #[test]
    fn only_what_a_delivery_names_is_a_tarball_of_ours() {
        assert_eq!(run_of(&key(RUN)), Some(RunId(RUN.to_owned())));
        let digest = Sha256::of(b"buildkit");
        for foreign in [
            format!("amibake/{RUN}/log.txt"),
            format!("amibake/{RUN}/deep/{digest}.tar.gz"),
            format!("amibake/some-run/{digest}.tar.gz"),
            format!("amibake/{RUN}/{digest}.tar.gz.bak"),
            format!("amibake/../{digest}.tar.gz"),
            format!("other/amibake/{RUN}/{digest}.tar.gz"),
            format!("amibake/{RUN}"),
        ] {
            assert_eq!(run_of(&foreign), None, "{foreign}");
        }
    }

    #[tokio::test]
    async fn two_pages_of_a_bucket_and_only_what_is_a_day_old() {
        let pages = mock!(aws_sdk_s3::Client::list_objects_v2)
            .match_requests(|request| request.prefix() == Some("amibake/") && request.bucket() == Some("parcels"))
            .sequence()
            .output(|| {
                let page = ListObjectsV2Output::builder().is_truncated(true).next_continuation_token("more");
                page.contents(object(&key(RUN), 25)).contents(object("amibake/readme", 9000)).build()
            })
            .output(|| {
                let page = ListObjectsV2Output::builder().contents(object(&key("20261124t200000-000001"), 23));
                // By this clock it is of the future.
                page.contents(object(&key("20261125t030000-000002"), -3)).build()
            })
            .build();
        let clients = mocked(&[&pages]);
        let found = find(&clients, &BTreeSet::from(["parcels".to_owned()]), None).await.unwrap();
        let found = LeftBehind::of(found, &Runs::default(), now()).due;
        assert_eq!(found.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), [format!("s3://parcels/{}", key(RUN))]);
        assert_eq!(place(&found[0].id), Some(("parcels", key(RUN).as_str())));
        assert_eq!(pages.num_calls(), 2);
    }

    #[tokio::test]
    async fn of_a_run_all_and_of_a_bucket_that_is_gone_nothing() {
        let run = RunId(RUN.to_owned());
        let its = mock!(aws_sdk_s3::Client::list_objects_v2)
            .match_requests(|request| request.prefix() == Some("amibake/20261124t145112-3fa9c1/"))
            .then_output(|| ListObjectsV2Output::builder().contents(object(&key(RUN), 0)).build());
        let found = find(&mocked(&[&its]), &BTreeSet::from(["parcels".to_owned()]), Some(&run)).await.unwrap();
        assert_eq!(found.len(), 1);
        let refused = |code: &'static str| -> Rule {
            mock!(aws_sdk_s3::Client::list_objects_v2).then_error(move || {
                ListObjectsV2Error::generic(ErrorMetadata::builder().code(code).message("no").build())
            })
        };
        let buckets = BTreeSet::from(["gone".to_owned()]);
        assert_eq!(find(&mocked(&[&refused("NoSuchBucket")]), &buckets, None).await.unwrap(), []);
        let error = find(&mocked(&[&refused("AccessDenied")]), &buckets, None).await.unwrap_err();
        assert!(error.hint().unwrap().contains("s3:ListBucket"), "{error:?}");
    }
}
