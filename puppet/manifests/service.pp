# @summary The service, and how it learns of changes.
# @api private
class bridgeward::service {
  assert_private()

  if $bridgeward::manage_service {
    if !$bridgeward::package {
      $binary = $bridgeward::binary
      $run_name = $bridgeward::run_dir.regsubst('\A/run/', '')
      file { "/etc/systemd/system/${bridgeward::service_name}.service":
        ensure  => file,
        owner   => 'root',
        group   => 'root',
        mode    => '0644',
        content => @("UNIT"/$),
          # Written by Puppet.
          [Unit]
          Description=Webhook gateway
          After=network-online.target
          Wants=network-online.target

          [Service]
          User=${bridgeward::user}
          Group=${bridgeward::group}
          ExecStart=${binary} serve --policy ${bridgeward::config_dir}
          ExecReload=/bin/kill -HUP \$MAINPID
          RuntimeDirectory=${run_name}
          RuntimeDirectoryMode=0700
          UMask=0077
          LimitNOFILE=65536
          # A control group for each command, which the kernel can kill as a whole.
          Delegate=yes
          KillMode=mixed
          Restart=on-failure

          [Install]
          WantedBy=multi-user.target
          | UNIT
        notify  => Service[$bridgeward::service_name],
      }
    }
    if $bridgeward::package {
      Package[$bridgeward::package] ~> Service[$bridgeward::service_name]
    }
    service { $bridgeward::service_name:
      ensure => $bridgeward::service_ensure,
      enable => $bridgeward::service_enable,
    }
  }

  $socket = $bridgeward::gateway.dig('admin', 'socket').lest || { "${bridgeward::run_dir}/admin.sock" }
  $command = $bridgeward::reload_command.lest || { [$bridgeward::binary, 'reload', '--socket', $socket] }
  if $bridgeward::service_ensure == 'running' {
    exec { 'bridgeward reload':
      command     => $command,
      refreshonly => true,
      logoutput   => on_failure,
      subscribe   => Class['bridgeward::policy'],
    }
    if $bridgeward::manage_service {
      Service[$bridgeward::service_name] -> Exec['bridgeward reload']
    }
  }
}
