//! What must not compile, each beside a twin that does.
//!
//! The expected messages are those of the compiler that the project is developed with; after an update of it, or of
//! the fields that a message lists, `TRYBUILD=overwrite cargo test --test ui` writes them anew.

#[test]
fn misuse_does_not_compile_and_its_twin_does() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*_fails.rs");
    cases.pass("tests/ui/*_passes.rs");
}
