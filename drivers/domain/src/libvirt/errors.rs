//! libvirt's error numbers to our few classes.

use virt::error::{Error, ErrorDomain, ErrorNumber};

use crate::error::{Cause, Code};

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        Cause::Libvirt { code: code(error.code(), error.domain()), message: error.message().to_owned() }
    }
}

/// The class of an error.
///
/// A broken connection has no number of its own: libvirt reports it as an internal, system or RPC error of the RPC or
/// remote layer. The layer alone decides only for such general numbers; what the daemon itself answered keeps its own.
fn code(number: ErrorNumber, layer: ErrorDomain) -> Code {
    use ErrorNumber as N;
    let transport = matches!(layer, ErrorDomain::Rpc | ErrorDomain::Remote);
    match number {
        N::NoDomain => Code::NoDomain,
        N::DomExist => Code::Exists,
        N::NoConnect | N::InvalidConn | N::UnknownHost | N::GnutlsError => Code::Connection,
        N::Rpc | N::Ssh | N::Libssh => Code::Connection,
        N::SystemError | N::InternalError | N::OperationFailed if transport => Code::Connection,
        N::AuthFailed | N::AuthCancelled | N::AuthUnavailable => Code::Denied,
        N::OperationDenied | N::AccessDenied => Code::Denied,
        N::XmlError | N::XmlDetail | N::XmlInvalidSchema | N::InvalidArg | N::InvalidMac => Code::Xml,
        N::OsType | N::NoName | N::NoOs | N::NoSource | N::NoTarget => Code::Xml,
        N::OperationInvalid => Code::WrongState,
        N::NoSupport | N::ConfigUnsupported | N::ArgumentUnsupported => Code::Unsupported,
        N::OperationUnsupported | N::CpuIncompatible => Code::Unsupported,
        N::NoDomainMetadata => Code::NoMetadata,
        // An agent that answers with an error is there.
        N::AgentUnresponsive | N::AgentUnsynced => Code::Agent,
        N::AgentCommandTimeout | N::OperationTimeout => Code::Timeout,
        N::OperationAborted => Code::Aborted,
        N::MigrateUnsafe => Code::Unsafe,
        _ => Code::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_transport_makes_a_general_error_a_broken_connection() {
        let general = ErrorNumber::InternalError;
        assert_eq!(code(general, ErrorDomain::Rpc), Code::Connection);
        assert_eq!(code(general, ErrorDomain::Qemu), Code::Other);
        // The daemon's answer came through the remote layer, and is an answer all the same.
        assert_eq!(code(ErrorNumber::NoDomain, ErrorDomain::Remote), Code::NoDomain);
        assert_eq!(code(ErrorNumber::SystemError, ErrorDomain::Qemu), Code::Other);
    }
}
