//! What must not compile, each beside a twin that does.
//!
//! The expected messages are those of the compiler that the project is developed with; after an update of it, or of
//! the fields that a message lists, `TRYBUILD=overwrite cargo test -p misuse` writes them anew.
//!
//! A package of its own, since `trybuild` builds all dependencies of the package it is in once more.

#[test]
fn misuse_does_not_compile_and_its_twin_does() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("cases/*_fails.rs");
    cases.pass("cases/*_passes.rs");
}
