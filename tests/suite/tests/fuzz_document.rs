//! oned's documents under attack: they are refused or understood, and what is understood says the same when written.

use causeway_core::document::{
    DocumentError, Envelope, TmCommand, VmDocument, decode, encode, encode_lines, parse, reduce, reduced_vm,
};

#[path = "../../fuzz/seeded.rs"]
mod seeded;

#[test]
fn fuzz_trees() {
    seeded::fuzz("document", |bytes| {
        let Ok(root) = parse(bytes) else { return };
        let written = root.render();
        let again = parse(written.as_bytes()).unwrap_or_else(|error| panic!("{error} in {written}"));
        assert!(again == root, "{written} says something else than what it was written from");
        assert_eq!(again.render(), written);
    });
}

#[test]
fn fuzz_requests() {
    seeded::fuzz("document", |bytes| {
        if let Ok((envelope, faults)) = Envelope::parse_tolerant(bytes) {
            assert_eq!(faults.first(), Envelope::parse(bytes).as_ref().err());
            same_network(&envelope.vm);
            for command in envelope.tm_command.iter().chain(&envelope.tm_rollback) {
                let again = TmCommand::parse(&command.to_string(), "x");
                assert_eq!(again.as_ref(), Ok(command));
                assert!(!command.file_name().contains('/') && !command.tm.as_str().contains('/'));
            }
            let reduced = reduced_vm(&envelope);
            assert_eq!(decode(encode_lines(&reduced).as_bytes()).as_ref(), Ok(&reduced));
            assert_eq!(decode(encode(&reduced).as_bytes()), Ok(reduced));
        }
    });
}

#[test]
fn fuzz_virtual_machines() {
    seeded::fuzz("document", |bytes| match VmDocument::parse_tolerant(bytes) {
        Ok((vm, _)) => same_network(&vm),
        Err(DocumentError::Xml(error)) => assert!(error.offset <= bytes.len() as u64),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    });
}

/// A network driver learns from the reduced document what it would from the whole one.
fn same_network(vm: &VmDocument) {
    let text = reduce(vm).render();
    let (reduced, _) =
        VmDocument::parse_tolerant(text.as_bytes()).unwrap_or_else(|error| panic!("{error} in {text}"));
    assert_eq!(reduced.vn_mads(), vm.vn_mads());
    assert_eq!(reduced.deploy_id, vm.deploy_id);
    assert_eq!(reduced.security_group_rules, vm.security_group_rules);
    let networked = vm.nics.iter().filter(|nic| nic.element.first("VN_MAD").is_some());
    assert!(networked.eq(&reduced.nics));
}
