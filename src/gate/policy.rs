//! What an operator may change while the server runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::gate::Grant;
use crate::gate::limits::Limits;
use crate::gate::origin::Origins;
use crate::gate::rules::Rules;
use crate::gate::token::Verifier;

/// How users prove who they are.
#[derive(Clone, Default, Debug)]
pub enum Authentication {
    /// They do not: everyone is let in under the name they give.
    #[default]
    Open,
    /// By a token that the operator's backend signed.
    Token(Arc<Verifier>),
    /// By what the operator's backend answers when it is asked.
    Webhook(Arc<WebhookPolicy>),
    /// By one of these tokens: for tests and simulations, which have no keys.
    Fixed(Arc<FixedTokens>),
}

/// What the cores know of the webhook. The rest is the control plane's.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct WebhookPolicy {
    /// Header fields of a request that are passed on beside `Origin` and `User-Agent`: their names
    /// in lower case. Where one of these is there, the backend is asked without a token, too.
    pub headers: Box<[Box<str>]>,
}

/// Tokens, and what each gives its bearer.
#[derive(Clone, Default)]
pub struct FixedTokens(pub HashMap<String, Grant>);

impl fmt::Debug for FixedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FixedTokens({})", self.0.len())
    }
}

/// What an operator may change while the server runs. All cores share one, which is never changed
/// but replaced as a whole.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How users prove who they are.
    pub authentication: Authentication,
    /// How much peers may do.
    pub limits: Limits,
    /// What holds in which rooms, and what everyone may do there.
    pub rules: Rules,
    /// Which pages may open a connection.
    pub origins: Origins,
    /// Whether a token may stand in the URL. Default false.
    pub token_in_url: bool,
    /// How long an upgraded connection may take to prove who it is. Default 10 s.
    pub auth_timeout: Duration,
    /// How long before the end of a token its bearer is told. Zero: not at all. Default 60 s.
    pub token_expiring_notice: Duration,
    /// How long a connection may stay, give or take a tenth; for ever where not given.
    pub connection_lifetime: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            authentication: Authentication::Open,
            limits: Limits::default(),
            rules: Rules::default(),
            origins: Origins::default(),
            token_in_url: false,
            auth_timeout: Duration::from_secs(10),
            token_expiring_notice: Duration::from_secs(60),
            connection_lifetime: None,
        }
    }
}
