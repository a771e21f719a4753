# @summary The program, its user, its directories, and its certificates.
# @api private
class bridgeward::install {
  assert_private()

  if $bridgeward::package {
    package { $bridgeward::package:
      ensure => $bridgeward::package_ensure,
    }
  }

  if $bridgeward::manage_user {
    group { $bridgeward::group:
      ensure => present,
      system => true,
    }
    user { $bridgeward::user:
      ensure => present,
      system => true,
      gid    => $bridgeward::group,
      home   => $bridgeward::state_dir,
      shell  => '/usr/sbin/nologin',
    }
  }

  file {
    default:
      ensure => directory,
      owner  => 'root',
      group  => $bridgeward::group,
      mode   => '0750';
    $bridgeward::config_dir:
      ;
    ["${bridgeward::config_dir}/secrets", "${bridgeward::config_dir}/tls"]:
      ;
    [$bridgeward::state_dir, $bridgeward::run_dir]:
      owner => $bridgeward::user,
      mode  => '0700';
  }

  if $bridgeward::ssldir {
    $certname = $bridgeward::certname
    $copies = {
      'server.pem' => "certs/${certname}.pem",
      'server.key' => "private_keys/${certname}.pem",
      'ca.pem'     => 'certs/ca.pem',
      'crl.pem'    => 'crl.pem',
    }
    $copies.each |$name, $source| {
      file { "${bridgeward::config_dir}/tls/${name}":
        ensure    => file,
        owner     => 'root',
        group     => $bridgeward::group,
        mode      => '0640',
        source    => "${bridgeward::ssldir}/${source}",
        show_diff => false,
      }
    }
  }
}
