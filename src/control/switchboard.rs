//! Questions of the control plane to the cores, and their answers, which come when they come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::address::{CoreId, Placement};
use crate::bus::{Answer, ApiAnswer, ApiAsk, Query, Ticket};
use crate::control::Cores;

/// How many bytes of queries may wait for a core before more are refused. Publishers' reads are
/// paused at `--bus-backlog-bytes`, which is more: the backend is told before clients feel it.
const BACKLOG_BYTES_MAX: usize = 2 << 20;

/// Why there is no answer.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum Unanswered {
    /// The core has too much to do.
    #[error("core {} is behind with its work; try again shortly", .0.0)]
    Busy(CoreId),
    /// The core is gone, which it is at the end of a drain.
    #[error("core {} has stopped; the node is shutting down", .0.0)]
    Gone(CoreId),
    /// The core did not answer in time. What was asked may still be done.
    #[error("core {} did not answer in time; what was asked may still happen", .0.0)]
    Late(CoreId),
}

#[derive(Default)]
struct Pending {
    tickets: u64,
    waiting: HashMap<Ticket, oneshot::Sender<ApiAnswer>>,
}

/// Asks cores, and hands each answer to whom it belongs. Clones ask the same cores.
#[derive(Clone)]
pub struct Switchboard {
    cores: Arc<dyn Cores>,
    /// Held for a look at a table, never across a wait.
    pending: Arc<Mutex<Pending>>,
    timeout: Duration,
}

impl Switchboard {
    /// Asks these cores. An answer may take as long as `timeout`.
    pub fn new(cores: Arc<dyn Cores>, timeout: Duration) -> Switchboard {
        Switchboard {
            cores,
            pending: Arc::default(),
            timeout,
        }
    }

    /// How many cores there are.
    pub fn core_count(&self) -> u16 {
        self.cores.count() as u16
    }

    /// Where rooms and users are at home.
    pub fn placement(&self) -> &Placement {
        self.cores.placement()
    }

    /// Asks one core. `weight_bytes` is roughly what the question holds in memory.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(
        &self,
        core: CoreId,
        ask: ApiAsk,
        weight_bytes: usize,
    ) -> Result<ApiAnswer, Unanswered> {
        if self.cores.backlog_bytes(core) > BACKLOG_BYTES_MAX {
            return Err(Unanswered::Busy(core));
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = {
            let mut pending = self.lock();
            pending.tickets += 1;
            let ticket = Ticket(pending.tickets);
            pending.waiting.insert(ticket, sender);
            ticket
        };
        // Also where the caller goes away and this ends at the `await`.
        let _forget = Forget(self, ticket);
        if !self.cores.query(core, Query { ticket, ask }, weight_bytes) {
            return Err(Unanswered::Gone(core));
        }
        match timeout(self.timeout, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Unanswered::Gone(core)),
            Err(_) => Err(Unanswered::Late(core)),
        }
    }

    /// Hands out what cores answer until none is left that could.
    pub(super) async fn serve(self, mut answers: UnboundedReceiver<Vec<Answer>>) {
        while let Some(answers) = answers.recv().await {
            let mut pending = self.lock();
            for Answer { ticket, answer } in answers {
                if let Some(waiting) = pending.waiting.remove(&ticket) {
                    // Whoever asked may have gone away.
                    let _gone = waiting.send(answer);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        // Nothing that is done under the lock leaves the table half changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a question when its asker is done with it.
struct Forget<'a>(&'a Switchboard, Ticket);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting.remove(&self.1);
    }
}
