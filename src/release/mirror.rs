//! Where releases come from instead of the place that the lock names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

use crate::download::{Source, shown};
use crate::error::{Context as _, Error, Result};

/// Replaces the part of a locked URL before `<version>/<file>`.
#[derive(Clone, PartialEq, Eq)]
pub enum Mirror {
    /// An http(s) address.
    Http(Url),
    /// A folder: `<dir>/<version>/<file>`.
    Dir(PathBuf),
}

impl Mirror {
    /// Where the file lies here whose locked address is `locked`.
    pub(super) fn source(&self, locked: &Url) -> Result<Source> {
        let odd = || Error::usage(format!("{} is no address of a release", shown(locked)));
        let mut parts = locked.path_segments().ok_or_else(odd)?.rev();
        let (file, version) = (parts.next().ok_or_else(odd)?, parts.next().ok_or_else(odd)?);
        match self {
            Mirror::Http(base) => {
                let mut url = base.clone();
                url.path_segments_mut().map_err(|()| odd())?.pop_if_empty().extend([version, file]);
                Ok(Source::Http(url))
            }
            Mirror::Dir(folder) => Ok(Source::File(folder.join(version).join(file))),
        }
    }
}

impl Mirror {
    /// Where the file `name` lies here, beside the versions.
    pub(super) fn file(&self, name: &str) -> Result<Source> {
        match self {
            Mirror::Http(base) => {
                let mut url = base.clone();
                let odd = |()| Error::usage(format!("{} is no address of a release mirror", shown(base)));
                url.path_segments_mut().map_err(odd)?.pop_if_empty().push(name);
                Ok(Source::Http(url))
            }
            Mirror::Dir(folder) => Ok(Source::File(folder.join(name))),
        }
    }

    /// The address here of the file whose locked address is `locked`, for another machine; none in a folder of this one. May
    /// hold a password.
    ///
    /// # Errors
    /// Exit 2 when `locked` is no address of a release.
    pub fn address(&self, locked: &str) -> Result<Option<String>> {
        let locked = Url::parse(locked).or_usage(|| "the lock holds an address that is none".to_owned())?;
        Ok(match self.source(&locked)? {
            Source::Http(url) => Some(url.into()),
            Source::File(_) => None,
        })
    }
}

/// `http://…` and `https://…` are servers, `file://…` and everything without `://` is a folder.
impl FromStr for Mirror {
    type Err = String;

    // No message repeats the text: it may hold a password.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let Some((scheme, _)) = text.split_once("://") else {
            return if text.is_empty() {
                Err("a mirror is a URL or a folder, not nothing".into())
            } else {
                Ok(Mirror::Dir(text.into()))
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
                Ok(Mirror::Http(url))
            }
            "file" => {
                let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
                path.map(Mirror::Dir).ok_or_else(|| "a file URL has the form file:///folder".into())
            }
            _ => Err(format!("`{scheme}://` is not supported: expected http, https, file or a folder")),
        }
    }
}

/// Without user, password and query.
impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mirror::Http(url) => f.write_str(&shown(url)),
            Mirror::Dir(folder) => Path::display(folder).fmt(f),
        }
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mirror({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mirror: &str) -> String {
        let locked = Url::parse("https://h.example/o/r/releases/download/v1.2.3/buildkit-v1.2.3.linux-amd64.tar.gz");
        match mirror.parse::<Mirror>().unwrap().source(&locked.unwrap()).unwrap() {
            Source::Http(url) => url.into(),
            Source::File(path) => path.display().to_string(),
        }
    }

    #[test]
    fn a_mirror_replaces_what_stands_before_the_version() {
        let tail = "v1.2.3/buildkit-v1.2.3.linux-amd64.tar.gz";
        assert_eq!(at("https://m.example/a/b"), format!("https://m.example/a/b/{tail}"));
        assert_eq!(at("HTTP://m.example:81/a/b/"), format!("http://m.example:81/a/b/{tail}"));
        assert_eq!(at("http://m.example?key=1"), format!("http://m.example/{tail}?key=1"));
        assert_eq!(at("file:///srv/rel%20eases"), format!("/srv/rel eases/{tail}"));
        assert_eq!(at("rel/here"), format!("rel/here/{tail}"));
    }

    #[test]
    fn what_is_no_mirror_is_refused_and_no_password_is_shown() {
        for bad in ["", "s3://bucket/x", "http://", "file://host/x", "https://me:geheim@[x"] {
            let message = bad.parse::<Mirror>().unwrap_err();
            assert!(!message.contains("geheim"), "{message}");
        }
        let mirror = "https://me:geheim@m.example/a?token=geheim".parse::<Mirror>().unwrap();
        assert!(!format!("{mirror} {mirror:?}").contains("geheim"));
    }
}
