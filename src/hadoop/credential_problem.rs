//! What can be wrong with tickets, keytabs and tokens, in words that say what to do.

use std::path::PathBuf;

use jiff::Timestamp;

/// Why credentials cannot work, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialProblem {
    /// No ticket cache.
    #[error("there is no Kerberos ticket: {} does not exist; run kinit, or set a keytab and a principal", .cache.display())]
    NoCache {
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// A ticket cache without a ticket-granting ticket.
    #[error("there is no Kerberos ticket of {principal} in {}; run kinit", .cache.display())]
    NoTicket {
        /// The cache.
        cache: PathBuf,
        /// Whose it is.
        principal: String,
    },
    /// A ticket that ended.
    #[error("the Kerberos ticket of {principal} in {} expired at {ended_at}; run kinit, or have cron renew it", .cache.display())]
    TicketExpired {
        /// The cache.
        cache: PathBuf,
        /// Whose it is.
        principal: String,
        /// When it ended.
        ended_at: Timestamp,
    },
    /// The ticket of somebody else.
    #[error("the Kerberos ticket in {} is of {found}, not of {wanted}; run kinit {wanted}", .cache.display())]
    OtherPrincipal {
        /// The cache.
        cache: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// A keytab without the principal.
    #[error("the keytab {} has no key of {principal}, only of {}", .keytab.display(), .found.join(", "))]
    NotInKeytab {
        /// The keytab.
        keytab: PathBuf,
        /// The principal that was asked for.
        principal: String,
        /// The principals in it.
        found: Vec<String>,
    },
    /// A delegation token that ended.
    #[error("the delegation token for {service} in {} expired at {ended_at}; submit the job again, or set a keytab and a principal", .file.display())]
    TokenExpired {
        /// The token file.
        file: PathBuf,
        /// Whom the token is for.
        service: String,
        /// When it ended.
        ended_at: Timestamp,
    },
    /// No delegation token for this NameNode, and no ticket either.
    #[error("{} has no delegation token for {service} (only for: {}), and {ticket}", .file.display(), .found.join(", "))]
    NoToken {
        /// The token file.
        file: PathBuf,
        /// Whom it should be for.
        service: String,
        /// Whom tokens are for.
        found: Vec<String>,
        /// What is wrong with the ticket that would do instead.
        ticket: Box<CredentialProblem>,
    },
    /// A file that cannot be read.
    #[error("cannot read the {what} {}: {why}", .file.display())]
    Unreadable {
        /// `keytab`, `ticket cache`, `token file`.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// The reason.
        why: String,
    },
}
