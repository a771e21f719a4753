# @summary A route of the policy, in a file of its own: who may ask for what, and what is run.
#
# Files of routes that are not declared are removed. Every parameter is a key of the policy's language, which the
# gateway's own documentation describes.
#
# @param method
#   The request's method.
# @param allow
#   The rules, of which one must hold.
# @param run
#   The commands, as argv arrays under `steps`, and how they are run.
# @param path
#   The request's path; the route's name by default.
# @param body
#   Largest body, such as `64KiB`.
# @param payload
#   `json`, `form:<field>` or `none`. By default `none` for GET and `json` for the others.
# @param rate
#   How often.
# @param when
#   Conditions; a request that does not meet them is ignored.
# @param parameters
#   What commands take from the request.
#
# @example
#   bridgeward::route { 'promote':
#     method     => 'POST',
#     allow      => [{ 'key' => ['jenkins'], 'networks' => ['10.20.0.0/16'] }],
#     parameters => {
#       'role' => { 'from' => 'body:/role', 'pattern' => '[a-z][a-z0-9_]{0,62}' },
#     },
#     run        => {
#       'steps'   => [['/usr/bin/mco', 'puppet', 'runonce', '-F', 'role={role}']],
#       'timeout' => '10m',
#     },
#   }
define bridgeward::route (
  Bridgeward::Method $method,
  Array[Bridgeward::Rule, 1] $allow,
  Bridgeward::Run $run,
  String[1] $path = "/${title}",
  Optional[String[1]] $body = undef,
  Optional[String[1]] $payload = undef,
  Optional[Hash[String[1], Any]] $rate = undef,
  Array[Hash[String[1], Any]] $when = [],
  Hash[String[1], Hash[String[1], Any]] $parameters = {},
) {
  include bridgeward

  $file = "routes/${assert_type(Bridgeward::Name, $title)}.toml"
  $default_payload = $method ? {
    'GET'   => 'none',
    default => undef,
  }
  $optional = {
    'rate'       => $rate,
    'when'       => $when,
    'parameters' => $parameters,
  }.filter |$_name, $value| { $value =~ NotUndef and !$value.empty }
  $content = bridgeward::to_toml({
      'method'  => $method,
      'path'    => $path,
      'body'    => $body,
      'payload' => $payload.lest || { $default_payload },
      'allow'   => $allow,
      'run'     => $run,
  } + $optional)

  file {
    default:
      ensure  => file,
      owner   => 'root',
      group   => $bridgeward::group,
      mode    => '0640',
      content => "# Written by Puppet.\n\n${content}";
    "${bridgeward::config_dir}/.next/${file}":
      before => Exec['bridgeward check'];
    "${bridgeward::config_dir}/${file}":
      validate_cmd => $bridgeward::policy::validate,
      require      => Exec['bridgeward check'],
      notify       => Class['bridgeward::service'];
  }
}
