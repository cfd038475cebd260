//! The attribute `#[timeboxed]` of the crate [timebox](https://docs.rs/timebox). Use it from there, with the feature `macros`:
//! its documentation is there, and its expansion calls that crate.

mod arguments;
mod duration;
mod expand;
mod function;
mod output;

use proc_macro::TokenStream;

use arguments::Arguments;

// Documented where `timebox` exports it.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn timeboxed(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse::<Arguments>(arguments)
        .and_then(|arguments| expand::expand(&arguments, syn::parse(item.clone())?));
    match expanded {
        Ok(function) => function.into(),
        // With the function as it is, so that its callers get no errors of their own.
        Err(error) => TokenStream::from_iter([TokenStream::from(error.into_compile_error()), item]),
    }
}
