use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Expr, ExprGroup, ExprLit, ExprParen, Ident, Lit, Path, Result, Token, parse_quote};

use crate::duration;

const LIMIT_IS_MISSING: &str = "the limit is missing: #[timeboxed(\"250ms\")], or #[timeboxed(limit = ..)] with a duration, \
                                an instant or a quota";
const ARGUMENTS: &str = "limit, label, grace, fallback, strict and crate";
const UNIT_IS_MISSING: &str = "a duration is a text with a unit, such as \"250ms\", or an expression";

pub(crate) struct Arguments {
    pub(crate) limit: Time,
    pub(crate) label: Option<Expr>,
    pub(crate) grace: Option<Time>,
    pub(crate) fallback: Option<Expr>,
    pub(crate) strict: bool,
    pub(crate) timebox: Path,
}

/// The expression of a limit or a grace. A literal such as `"250ms"` has become a `Duration`.
pub(crate) struct Time(TokenStream);

impl Parse for Time {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let expression: Expr = input.parse()?;
        match unwrapped(&expression) {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
                let span = text.span().resolved_at(Span::mixed_site());
                let duration =
                    duration::parse(&text.value()).map_err(|message| Error::new_spanned(text, message))?;
                let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
                Ok(Self(quote_spanned!(span=> ::core::time::Duration::new(#seconds, #nanos))))
            }
            Expr::Lit(ExprLit { lit, .. }) => Err(Error::new_spanned(lit, UNIT_IS_MISSING)),
            _ => Ok(Self(expression.into_token_stream())),
        }
    }
}

impl ToTokens for Time {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.0.to_tokens(tokens);
    }
}

/// The expression without parentheses, and without the groups that a macro puts around it.
pub(crate) fn unwrapped(mut expression: &Expr) -> &Expr {
    while let Expr::Paren(ExprParen { expr, .. }) | Expr::Group(ExprGroup { expr, .. }) = expression {
        expression = expr;
    }
    expression
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut limit, mut label, mut grace, mut fallback) = (None, None, None, None);
        let (mut strict, mut timebox) = (None, None);
        if input.peek(Lit) {
            limit = Some(input.parse::<Time>()?);
            comma(input)?;
        }
        while !input.is_empty() {
            if !input.peek(Ident::peek_any) {
                return Err(input.error(format!("expected one of the arguments {ARGUMENTS}")));
            }
            let name = input.call(Ident::parse_any)?;
            match name.to_string().as_str() {
                "limit" => value(input, &name, &mut limit)?,
                "label" => value(input, &name, &mut label)?,
                "grace" => value(input, &name, &mut grace)?,
                "fallback" => value(input, &name, &mut fallback)?,
                "crate" => value(input, &name, &mut timebox)?,
                "strict" => set_once(&name, &mut strict, ())?,
                _ => {
                    let message = format!(
                        "there is no argument `{name}`: there are {ARGUMENTS}. A limit that is no literal is written \
                         `limit = ..`; for other settings call `Timebox` in the function"
                    );
                    return Err(Error::new_spanned(name, message));
                }
            }
            comma(input)?;
        }
        Ok(Self {
            limit: limit.ok_or_else(|| Error::new(Span::call_site(), LIMIT_IS_MISSING))?,
            label,
            grace,
            fallback,
            strict: strict.is_some(),
            timebox: timebox.unwrap_or_else(|| parse_quote!(::timebox)),
        })
    }
}

fn value<T: Parse>(input: ParseStream<'_>, name: &Ident, argument: &mut Option<T>) -> Result<()> {
    if input.parse::<Token![=]>().is_err() {
        return Err(Error::new_spanned(name, format!("`{name}` needs a value: `{name} = ..`")));
    }
    set_once(name, argument, input.parse()?)
}

fn set_once<T>(name: &Ident, argument: &mut Option<T>, value: T) -> Result<()> {
    match argument.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new_spanned(name, format!("`{name}` is given twice"))),
    }
}

fn comma(input: ParseStream<'_>) -> Result<()> {
    if !input.is_empty() {
        input.parse::<Token![,]>()?;
    }
    Ok(())
}
