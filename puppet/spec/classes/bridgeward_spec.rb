# frozen_string_literal: true

describe 'bridgeward' do
  let(:trusted_facts) { {} }
  let(:node) { 'puppet.example.com' }
  let(:check) { '/sbin/runuser -u bridgeward -- /usr/bin/bridgeward check --policy /etc/bridgeward/.next --as /etc/bridgeward' }

  def gateway_toml(catalogue, target = '/etc/bridgeward/gateway.toml')
    fragments = catalogue.resources.select { |resource| resource.type == 'Concat::Fragment' && resource[:target] == target }
    fragments.sort_by { |fragment| [fragment[:order], fragment.title] }.map { |fragment| fragment[:content] }.join
  end

  context 'with nothing said' do
    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_package('bridgeward').that_notifies('Service[bridgeward]') }
    it { is_expected.to contain_user('bridgeward').with(system: true, gid: 'bridgeward', shell: '/usr/sbin/nologin') }
    it { is_expected.to contain_file('/etc/bridgeward/secrets').with(owner: 'root', group: 'bridgeward', mode: '0750') }
    it { is_expected.to contain_file('/var/lib/bridgeward').with(owner: 'bridgeward', mode: '0700') }
    it { is_expected.to contain_service('bridgeward').with(ensure: 'running', enable: true) }
    it { is_expected.not_to contain_file('/etc/systemd/system/bridgeward.service') }

    it 'shows the certificate of the agent' do
      is_expected.to contain_file('/etc/bridgeward/tls/server.key').with(
        source: '/etc/puppetlabs/puppet/ssl/private_keys/puppet.example.com.pem', owner: 'root', group: 'bridgeward', mode: '0640', show_diff: false
      )
      is_expected.to contain_file('/etc/bridgeward/tls/crl.pem').with_source('/etc/puppetlabs/puppet/ssl/crl.pem')
    end

    it 'checks the policy before anything of it lands' do
      is_expected.to contain_exec('bridgeward check').with_command(check.split).that_requires(
        ['Concat[/etc/bridgeward/.next/gateway.toml]', 'File[/etc/bridgeward/.next/routes]']
      )
      is_expected.to contain_concat('/etc/bridgeward/gateway.toml').with_validate_cmd(check).that_requires('Exec[bridgeward check]')
      is_expected.to contain_file('/etc/bridgeward/routes').with(recurse: true, purge: true).that_requires('Exec[bridgeward check]')
    end

    it 'reloads when the policy has changed' do
      is_expected.to contain_exec('bridgeward reload').with(
        command: ['/usr/bin/bridgeward', 'reload', '--socket', '/run/bridgeward/admin.sock'], refreshonly: true
      ).that_requires('Service[bridgeward]').that_subscribes_to('Class[bridgeward::policy]')
    end

    it 'stages what it lands, and listens at 8443' do
      landed = gateway_toml(catalogue)
      expect(landed).to eq(gateway_toml(catalogue, '/etc/bridgeward/.next/gateway.toml'))
      expect(landed).to eq(<<~TOML)
        # Written by Puppet.

        [listen]
        address = [
          "0.0.0.0:8443",
        ]
        certificate = "/etc/bridgeward/tls/server.pem"
        private_key = "/etc/bridgeward/tls/server.key"
        client_ca = "/etc/bridgeward/tls/ca.pem"
        client_crl = "/etc/bridgeward/tls/crl.pem"

        [admin]
        socket = "/run/bridgeward/admin.sock"

        [queue]
        file = "/var/lib/bridgeward/queue.db"

        [audit]
        file = "/var/lib/bridgeward/audit.jsonl"
      TOML
    end
  end

  context 'with a program from elsewhere and certificates of another CA' do
    let(:params) do
      {
        package: false, binary: '/opt/bridgeward/bin/bridgeward', ssldir: false, addresses: ['10.0.0.1:443', '[::1]:443'],
        gateway: {
          listen: { certificate: '/etc/ssl/gateway.pem', private_key: '/etc/ssl/gateway.key' },
          limits: { body: '1MiB' },
        },
      }
    end

    it { is_expected.to compile.with_all_deps }
    it { is_expected.not_to contain_package('bridgeward') }
    it { is_expected.not_to contain_file('/etc/bridgeward/tls/server.key') }

    it 'writes a unit' do
      is_expected.to contain_file('/etc/systemd/system/bridgeward.service').that_notifies('Service[bridgeward]').with_content(
        %r{^ExecStart=/opt/bridgeward/bin/bridgeward serve --policy /etc/bridgeward\nExecReload=/bin/kill -HUP \$MAINPID\nRuntimeDirectory=bridgeward$}
      )
    end

    it 'lets what is given stand over its own' do
      expect(gateway_toml(catalogue)).to include(
        %(address = [\n  "10.0.0.1:443",\n  "[::1]:443",\n]\ncertificate = "/etc/ssl/gateway.pem"\nprivate_key = "/etc/ssl/gateway.key"\n\n[admin]), %([limits]\nbody = "1MiB"\n)
      )
    end
  end

  context 'with everything from hiera' do
    let(:params) do
      {
        keys: sensitive({ 'jenkins' => { 'secrets' => ['0123456789abcdef', 'fedcba9876543210'], 'settings' => { 'window' => '1m' } } }),
        routes: { 'kick' => { 'method' => 'GET', 'allow' => [{ 'key' => ['jenkins'] }], 'run' => { 'steps' => [['/bin/true']] } } },
        listeners: { 'puppet' => { 'port' => 8444, 'allow' => [{ 'key' => ['jenkins'] }], 'routes' => { 'two' => { 'method' => 'GET', 'command' => ['/bin/true', 'x'] } } } },
      }
    end

    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_bridgeward__route('kick') }
    it { is_expected.to contain_bridgeward__route('two') }

    it 'keeps secrets in files that only root and the gateway read' do
      is_expected.to contain_file('/etc/bridgeward/secrets/jenkins.2').with(
        content: sensitive("fedcba9876543210\n"), owner: 'root', group: 'bridgeward', mode: '0640', show_diff: false
      ).that_comes_before('Exec[bridgeward check]').that_notifies('Class[bridgeward::service]')
      expect(gateway_toml(catalogue)).to include(<<~TOML)
        [keys.jenkins]
        scheme = "rfc9421"
        secrets = ["/etc/bridgeward/secrets/jenkins.1", "/etc/bridgeward/secrets/jenkins.2"]
        window = "1m"
      TOML
      expect(gateway_toml(catalogue)).not_to include('0123456789abcdef')
    end
  end

  {
    'a path that a shell would read' => { config_dir: '/etc/bridge ward' },
    'a relative program' => { binary: 'bridgeward' },
    'a user that would be an option' => { user: '-c' },
    'a table that the policy does not have' => { gateway: { listne: {} } },
    'a secret that is too short' => { keys: { 'jenkins' => { 'secrets' => ['short'] } } },
    'a name with a slash' => { routes: { '../x' => {} } },
  }.each do |what, parameters|
    context "with #{what}" do
      let(:params) { parameters }

      it { is_expected.to compile.and_raise_error(%r{expects|got|a secret has at least 16 bytes}) }
    end
  end
end
