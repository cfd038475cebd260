use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream, Parser};
use syn::{AttrStyle, Attribute, Error, Result, Signature, Token, Visibility};

const BODY_IS_MISSING: &str =
    "#[timeboxed] limits a body: write it at the implementations, or give the function a body";
const CONST: &str = "a `const fn` cannot have a limit, since it may run while the program is compiled";
const EXTERN: &str = "only functions of Rust can have a limit: move the body into one that returns a `Result`, and call it here";
const NO_FUNCTION: &str = "#[timeboxed] stands above a function with a body: `fn`, `async fn` or a method";

/// A function whose body is not parsed. Parsing would cost time, and would fail while somebody is writing the body in
/// an editor.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    pub(crate) body: Group,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let signature: Signature =
            input.parse().map_err(|error| Error::new(error.span(), format!("{NO_FUNCTION} ({error})")))?;
        if input.peek(Token![;]) {
            return Err(Error::new_spanned(signature.ident, BODY_IS_MISSING));
        }
        let body = braces(input.parse()?).ok_or_else(|| input.error(NO_FUNCTION))?;
        if let Some(constness) = signature.constness {
            return Err(Error::new_spanned(constness, CONST));
        }
        if let Some(abi) = &signature.abi {
            return Err(Error::new_spanned(abi, EXTERN));
        }
        let body = without_inner_attributes(body, &mut attributes)?;
        Ok(Self { attributes, visibility, signature, body })
    }
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { attributes, visibility, signature, body } = self;
        tokens.extend(quote!(#(#attributes)* #visibility #signature #body));
    }
}

/// Returns the body in its braces. A macro puts an invisible group around its `$body:block`; this removes the group.
/// `None` if the token is not a block.
fn braces(body: TokenTree) -> Option<Group> {
    let TokenTree::Group(body) = body else { return None };
    match body.delimiter() {
        Delimiter::Brace => Some(body),
        Delimiter::None => braces(body.stream().into_iter().next()?),
        _ => None,
    }
}

/// Moves `#![..]` at the beginning of a body to the attributes of the function. The body becomes an expression, and an
/// expression may not begin with such attributes.
fn without_inner_attributes(body: Group, attributes: &mut Vec<Attribute>) -> Result<Group> {
    let split = |input: ParseStream<'_>| Ok((Attribute::parse_inner(input)?, input.parse::<TokenStream>()?));
    let (inner, rest) = split.parse2(body.stream())?;
    if inner.is_empty() {
        return Ok(body);
    }
    attributes.extend(inner.into_iter().map(|attribute| Attribute { style: AttrStyle::Outer, ..attribute }));
    let mut without = Group::new(Delimiter::Brace, rest);
    without.set_span(body.span());
    Ok(without)
}
