//! What an operator may change while the server runs.

use std::sync::Arc;

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
}

/// What an operator may change while the server runs. All cores share one, which is never changed
/// but replaced as a whole.
#[derive(Clone, Default, Debug)]
pub struct Policy {
    /// How users prove who they are.
    pub authentication: Authentication,
    /// What holds in which rooms.
    pub rules: Rules,
}
