//! Who may ask the admin listener for what.
//!
//! With `--api-key-file` a request shows a key and gets what the key's scopes allow; without, whoever
//! reaches the listener may do everything, except for pages of strangers ([`browser`]). A handler says
//! what it needs by an argument, which is judged before its body is read:
//!
//! ```ignore
//! async fn rooms(Granted(caller, ..): Granted<Reading>, State(api): State<Api>) -> …
//! ```
//!
//! The state that a router of the control plane is given has to hold an [`Access`] (`FromRef`).

mod browser;
mod counters;
mod keys;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use thiserror::Error;

pub(super) use counters::Refusals;
pub use keys::{
    ApiKeys, Caller, KEY_FILE_BYTES_MAX, KEY_PREFIX, KeyFileFault, KeyLineFault, Scope, Scopes,
    is_key_name,
};

use crate::control::Problem;
use crate::control::access::browser::Foreign;
use crate::control::access::counters::Refusal;

/// How callers are told apart.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct AccessSettings {
    /// The file of keys; without, no key is asked for.
    pub key_file: Option<PathBuf>,
    /// Names besides addresses and `localhost` by which a listener without keys may be called.
    pub hosts: Vec<Box<str>>,
    /// Whether the listener speaks TLS.
    pub is_tls: bool,
    /// Whether `/metrics` needs no key.
    pub is_metrics_open: bool,
}

/// Why the file of keys cannot be used.
#[derive(Debug, Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("--api-key-file: cannot read {path}: {error}", path = path.display())]
    Unreadable {
        /// The file, as named by the operator.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// What is in it cannot be used.
    #[error("--api-key-file {path}: {fault}", path = path.display())]
    Unusable {
        /// The file, as named by the operator.
        path: PathBuf,
        /// What is wrong with it.
        fault: KeyFileFault,
    },
}

/// The doorkeeper of the admin listener. Clones are the same one.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    settings: AccessSettings,
    /// Who asks where no key is asked for.
    local: Caller,
    keys: RwLock<Option<Arc<ApiKeys>>>,
    refusals: Arc<Refusals>,
}

impl Access {
    /// Reads the file of keys, where there is one.
    ///
    /// # Errors
    /// [`AccessError`] where it cannot be used.
    pub fn open(settings: AccessSettings) -> Result<Access, AccessError> {
        let local = Caller {
            name: Arc::from("local"),
            scopes: Scopes::only(Scope::Admin),
        };
        let access = Access(Arc::new(Inner {
            settings,
            local,
            keys: RwLock::default(),
            refusals: Arc::default(),
        }));
        let keys = access.read()?;
        access.replace(keys);
        Ok(access)
    }

    /// Reads the file again. What is in it is not in force before [`Access::replace`].
    ///
    /// # Errors
    /// [`AccessError`] where it cannot be used.
    pub fn read(&self) -> Result<Option<ApiKeys>, AccessError> {
        let Some(path) = &self.0.settings.key_file else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = open(path).and_then(|file| {
            let bytes_max = KEY_FILE_BYTES_MAX as u64 + 1;
            file.take(bytes_max).read_to_end(&mut bytes)
        });
        read.map_err(|error| AccessError::Unreadable {
            path: path.clone(),
            error,
        })?;
        let keys = ApiKeys::read(&bytes).map_err(|fault| AccessError::Unusable {
            path: path.clone(),
            fault,
        })?;
        Ok(Some(keys))
    }

    /// Requests that begin from now on are held against these keys.
    pub fn replace(&self, keys: Option<ApiKeys>) {
        let mut place = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        *place = keys.map(Arc::new);
    }

    /// Whether a request shows a key, good for whatever; true where none is asked for.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        let known =
            |keys: &Arc<ApiKeys>| bearer(headers).is_some_and(|it| keys.caller(it).is_some());
        keys.as_ref().is_none_or(known)
    }

    /// Who was refused, and why: for scrapes.
    pub(super) fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(&self.0.refusals)
    }

    /// Whether `/metrics` needs no key.
    pub(super) fn is_metrics_open(&self) -> bool {
        self.0.settings.is_metrics_open
    }

    /// Whether callers have to show a key.
    pub fn asks_for_keys(&self) -> bool {
        self.0.settings.key_file.is_some()
    }

    /// Who asks, if it may do what needs `scope`.
    ///
    /// # Errors
    /// The problem to answer with: 401 without a good key, 403 where the key's scopes do not allow it
    /// or a page of strangers is behind the request.
    pub(super) fn admit(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, Problem> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.as_ref().map(Arc::clone);
        match keys {
            Some(keys) => self.by_key(&keys, headers, scope),
            None => self.without_key(headers, scope),
        }
    }

    fn without_key(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, Problem> {
        let settings = &self.0.settings;
        let way = (settings.is_tls, scope == Scope::Read);
        let foreign = match browser::judge(headers, &settings.hosts, way) {
            Ok(()) => return Ok(self.0.local.clone()),
            Err(foreign) => foreign,
        };
        let (status, refusal, detail) = match foreign {
            Foreign::NoHost => (
                StatusCode::BAD_REQUEST,
                Refusal::Host,
                "a request needs one Host field",
            ),
            Foreign::Host => (
                StatusCode::FORBIDDEN,
                Refusal::Host,
                "without API keys this listener is called by an address or localhost, so that no \
                 page can reach it by a name of its own; list other names in --admin-allow-host, or \
                 use keys: --api-key-file",
            ),
            Foreign::Page => (
                StatusCode::FORBIDDEN,
                Refusal::Origin,
                "a page of another origin is behind this request, and without API keys such pages \
                 are refused; use keys: --api-key-file",
            ),
        };
        self.0.refusals.count(refusal);
        Err(Problem::new(status, detail).closing())
    }

    fn by_key(&self, keys: &ApiKeys, headers: &HeaderMap, scope: Scope) -> Result<Caller, Problem> {
        let refuse = |refusal, detail, challenge| {
            self.0.refusals.count(refusal);
            let challenge = HeaderValue::from_static(challenge);
            let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
            Err(problem
                .with_header(header::WWW_AUTHENTICATE, challenge)
                .closing())
        };
        if !headers.contains_key(header::AUTHORIZATION) {
            // RFC 6750 §3.1: no error code where no credential came.
            let detail = "an API key is needed: send Authorization: Bearer KEY";
            return refuse(Refusal::NoKey, detail, "Bearer realm=\"tidewheel\"");
        }
        let Some(caller) = bearer(headers).and_then(|key| keys.caller(key)) else {
            let detail = if is_bare_key(headers) {
                "the word Bearer is missing before the key: send Authorization: Bearer KEY"
            } else {
                "this is none of the API keys of this server; send Authorization: Bearer KEY with a \
                 key whose line is in its --api-key-file"
            };
            let challenge = "Bearer realm=\"tidewheel\", error=\"invalid_token\"";
            return refuse(Refusal::BadKey, detail, challenge);
        };
        if caller.scopes.allow(scope) {
            return Ok(caller.clone());
        }
        self.0.refusals.count(Refusal::Scope);
        let (name, scopes, needed) = (&caller.name, caller.scopes, scope.text());
        let detail = format!("the key {name} has the scope {scopes}, and this needs {needed}");
        let challenge =
            format!("Bearer realm=\"tidewheel\", error=\"insufficient_scope\", scope=\"{needed}\"");
        let problem = Problem::new(StatusCode::FORBIDDEN, detail);
        Err(match HeaderValue::from_str(&challenge) {
            Ok(challenge) => problem.with_header(header::WWW_AUTHENTICATE, challenge),
            Err(_) => problem,
        })
    }
}

impl Default for Access {
    /// One that asks for no key.
    fn default() -> Access {
        Access(Arc::new(Inner {
            settings: AccessSettings::default(),
            local: Caller {
                name: Arc::from("local"),
                scopes: Scopes::only(Scope::Admin),
            },
            keys: RwLock::default(),
            refusals: Arc::default(),
        }))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&self.0.settings).finish()
    }
}

/// Opens a file that is one: a pipe would be waited for.
fn open(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    let error = "it is no regular file; put the keys into one";
    Err(io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// The key in the one `Authorization` field, where it is a bearer's.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    // RFC 9110 §11.1: the scheme's letters may be of either case.
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return None;
    }
    Some(key.trim_ascii()).filter(|key| key.len() <= keys::KEY_BYTES_MAX)
}

/// Whether the one `Authorization` field holds a single word that looks like a key of ours.
fn is_bare_key(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, more) = (values.next(), values.next());
    let value = value.map_or(&b""[..], |value| value.as_bytes().trim_ascii());
    more.is_none() && value.starts_with(KEY_PREFIX.as_bytes()) && !value.contains(&b' ')
}

/// A scope as a type, for the argument of a handler.
pub trait Need: Send {
    /// Which.
    const SCOPE: Scope;
}

/// Needs [`Scope::Publish`].
#[derive(Debug)]
pub enum Publishing {}

/// Needs [`Scope::Read`].
#[derive(Debug)]
pub enum Reading {}

/// Needs [`Scope::Admin`].
#[derive(Debug)]
pub enum Administering {}

impl Need for Publishing {
    const SCOPE: Scope = Scope::Publish;
}

impl Need for Reading {
    const SCOPE: Scope = Scope::Read;
}

impl Need for Administering {
    const SCOPE: Scope = Scope::Admin;
}

/// Who asks, and may.
#[derive(Debug)]
pub struct Granted<N>(pub Caller, pub PhantomData<N>);

impl<N, S> FromRequestParts<S> for Granted<N>
where
    N: Need,
    S: Send + Sync,
    Access: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let access = Access::from_ref(state);
        let caller = access.admit(&parts.headers, N::SCOPE)?;
        Ok(Granted(caller, PhantomData))
    }
}

#[cfg(test)]
mod tests;
